"""
Rules for the path integral of Integrated Gradients. A rule asks for nodes and turns what it gets into an integral;
it knows no model, and the engine knows no rule by name.

The integrand at a node `alpha` in [0, 1] is one number per token: the inner product of the gradient of F with
(input - baseline). Its sum over tokens is dF/dalpha.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .base import Evaluation, Integral, RuleInputs, Steps
from .fixed import density_midpoints, gauss_legendre, integrate_fixed, midpoint, paper, trapezoid
from .hybrid import START, hybrid
from .reliability import Reliability, SampledPath, assess, jaccard, mean_reliability
from .simpson import adaptive_simpson


__all__ = [
    "RULES",
    "Evaluation",
    "Integral",
    "Reliability",
    "Rule",
    "RuleInputs",
    "SampledPath",
    "Steps",
    "adaptive_simpson",
    "assess",
    "check_rule",
    "density_midpoints",
    "gauss_legendre",
    "hybrid",
    "integrate_fixed",
    "jaccard",
    "mean_reliability",
    "midpoint",
    "paper",
    "trapezoid",
]


@dataclass(frozen=True)
class Rule:
    """
    One row of the table of rules.

    Args:
        start (`Callable[[RuleInputs], Steps]`):
            Sets the rule in action.
        default (`int`):
            Gradient evaluations of a run that asks for none; for an adaptive rule the cap.
        least (`int`):
            Fewest evaluations that it works with.
    """

    start: Callable[[RuleInputs], Steps]
    default: int
    least: int = 1


def _fixed(nodes_and_weights: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> Callable[[RuleInputs], Steps]:
    return lambda inputs: integrate_fixed(*nodes_and_weights(inputs.evaluations))


def _ends_of(inputs: RuleInputs) -> tuple[float, float]:
    if inputs.ends is None:
        raise ValueError("rule='hybrid' needs F of the baseline and of the input. Pass them as `ends`.")
    return inputs.ends


def _by_density(inputs: RuleInputs) -> Steps:
    if inputs.density is None:
        raise ValueError("rule='density' needs a density. Pass what `learn_density` returned as `density`.")
    return integrate_fixed(*density_midpoints(inputs.density, inputs.evaluations))


RULES = {
    "hybrid": Rule(
        lambda inputs: hybrid(inputs.evaluations, _ends_of(inputs), inputs.segments), default=32, least=START
    ),
    "simpson": Rule(
        lambda inputs: adaptive_simpson(inputs.evaluations, inputs.tolerance, inputs.settled), default=64, least=9
    ),
    "density": Rule(_by_density, default=32),
    # The paper's 50, for all rules with fixed nodes
    "paper": Rule(_fixed(paper), default=50, least=2),
    "midpoint": Rule(_fixed(midpoint), default=50),
    "trapezoid": Rule(_fixed(trapezoid), default=50, least=2),
    "gauss_legendre": Rule(_fixed(gauss_legendre), default=50),
}


def check_rule(rule: str, evaluations: int | None) -> None:
    """
    Raise a `ValueError` if there is no such rule, or it cannot work with that many evaluations.

    Args:
        rule (`str`):
            One of [`RULES`].
        evaluations (`int` or `None`):
            Number of gradient evaluations; `None` is the rule's default.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown quadrature rule {rule!r}. Pass one of {', '.join(map(repr, RULES))}.")
    if evaluations is not None and evaluations < RULES[rule].least:
        raise ValueError(
            f"The rule {rule!r} needs at least {RULES[rule].least} gradient evaluations per trace, but {evaluations} "
            "were asked for. The paper uses 50."
        )
