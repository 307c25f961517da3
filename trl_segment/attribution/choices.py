"""What settings of the attribution can be set to, by name. No torch, which parsers of command lines do without."""

# The scorers of this package in the order in which a help lists them. `SCORERS` has their classes, and those that
# users have added.
SCORER_NAMES = (
    "integrated_gradients",
    "marginal",
    "counterfactual",
    "recursive",
    "gradient_x_input",
    "perplexity",
    "entropy",
    "opening_surprisal",
    "rest_perplexity",
    "attention",
    "confidence_gain",
    "first_correct",
    "necessity_sufficiency",
    "verification_opener",
    "random",
)
# Where the path of Integrated Gradients starts, what moves along it, and what ends an adaptive rule
BASELINES = ("pad", "eos", "zero", "mean")
PATHS = ("all", "reasoning")
STOPS = ("tolerance", "decision")
