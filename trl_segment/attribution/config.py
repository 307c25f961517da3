"""Settings that change attribution scores."""

import math
from dataclasses import dataclass, field

from ..presets import PRESETS, apply_preset
from ..traces.alignment import ANSWER_TEMPLATE
from ..traces.statements import STATEMENTS
from ..traces.trace import TraceConfig
from .choices import BASELINES, PATHS, SCORER_NAMES, STOPS
from .quadrature import RULES, check_rule


@dataclass
class AttributionConfig(TraceConfig):
    r"""
    How traces are attributed. Extends [`~trl_segment.traces.TraceConfig`].

    Parameters:
        attribution_scorer (`str`, *optional*, defaults to `"integrated_gradients"`):
            The scorer of the segments:

            - `"integrated_gradients"`: the paper's attribution.
            - `"marginal"`: the answer's loss without a segment, in a sweep from the last to the first, see
              [`~trl_segment.attribution.BackwardSweep`]. `"counterfactual"`: the same where the text behind the
              segment may change as the model would go on without it.
            - `"recursive"`: attribution in hops, from the answer to what it rests on and on from there, see
              [`~trl_segment.attribution.RecursiveAttribution`].
            - for comparison `"gradient_x_input"`, `"perplexity"`, `"entropy"`, `"opening_surprisal"`,
              `"rest_perplexity"`, `"attention"`, `"confidence_gain"`, `"first_correct"`, `"necessity_sufficiency"`,
              `"verification_opener"` or `"random"`, see [`~trl_segment.attribution.SCORERS`].
        attribution_threshold (`float`, *optional*, defaults to `1.0`):
            `"marginal"` and `"counterfactual"` leave a segment out of the trials of earlier ones if its absence costs
            the answer less than this, in nats; for `"first_correct"` the answer stands where it lacks at most this.
            Select with `selection="threshold"`.
        attribution_preset (`str`, *optional*):
            `"paper"` is the published procedure under one name: all tokens on the path, the paper's sum of 50 points
            with both ends in full, the pad baseline, and in the selection `tau` 0.7 and `beta` 0.8 on the absolute
            scale. On real models its attributions are mostly noise, see the page on real models; how far they can be
            trusted on the run's own traces is said.
        attribution_strict (`bool`, *optional*, defaults to `False`):
            Whether to refuse a run in which the attributions of more than a tenth of the traces are not settled.
        attribution_rule (`str`, *optional*, defaults to `"hybrid"`):
            Quadrature rule: `"hybrid"` (midpoints, then nodes where the integrand needs them, until two halves agree),
            `"simpson"` (adaptive, by completeness), `"density"` (midpoints where the first traces' mass lies), or with
            fixed nodes `"paper"` (the published sum with both ends in full), `"midpoint"`, `"trapezoid"` or
            `"gauss_legendre"`.
        attribution_evaluations (`int`, *optional*):
            Gradient evaluations per trace; for `"hybrid"` and `"simpson"` the cap. Defaults to 32 for `"hybrid"` and
            `"density"`, 64 for `"simpson"`, else the paper's 50.
        attribution_tolerance (`float`, *optional*, defaults to `0.01`):
            `"simpson"` stops when its panels' completeness defects add up to at most this share of
            `|F(input) - F(baseline)|`.
        attribution_stop (`str`, *optional*, defaults to `"tolerance"`):
            `"decision"` lets `"simpson"` stop earlier, when the remaining error no longer changes which segments are
            kept at the thresholds at hand. Other thresholds may then want the scores made again.
        attribution_noise_samples (`int`, *optional*, defaults to `0`):
            SmoothGrad: average over this many noisy copies of the input, at as many times the cost.
        attribution_path (`str`, *optional*, defaults to `"reasoning"`):
            What moves from baseline to input: the `"reasoning"` alone, while prompt and answer stay, or `"all"` tokens
            (the paper).
        attribution_baseline (`str`, *optional*, defaults to `"pad"`):
            Start of the path: the embedding of the `"pad"` (the paper) or `"eos"` token or of a token ID, the
            `"mean"` embedding, or `"zero"`.
        attribution_max_tokens (`int`, *optional*):
            Token budget of one forward pass: as many nodes of a trace run together as fit, a longer trace runs alone
            with gradient checkpointing. By default passes are planned from the model's shape and the free memory.
        attribution_compile (`bool`, *optional*):
            Whether decoder layers run through `torch.compile`. By default on CUDA for 64 traces or more: compiling
            takes about a minute. Only for scorers that differentiate.
        answer_template (`str`, *optional*):
            Text behind the reasoning in the attributed sequence; `{answer}` stands for the answer. Defaults to the
            paper's `</think> So, the final answer is \boxed{{answer}}`.
        answer_statements (`str`, *optional*, defaults to `"visible"`):
            What becomes of the places at which the reasoning itself states the answer, from which alone it could be
            read: they stay `"visible"` (the paper); they are `"hidden"` from the attribution model, a neutral token
            standing in the place of each of theirs; or `"only_first"` leaves those in the first segment that has any.
            Training sees the whole text all the same.

    Raises:
        `ValueError`: On a value that cannot work.
    """

    attribution_scorer: str = field(
        default="integrated_gradients",
        metadata={"help": "The scorer of the segments.", "choices": list(SCORER_NAMES)},
    )
    attribution_threshold: float = field(
        default=1.0,
        metadata={
            "help": "'marginal' and 'counterfactual' leave a segment out of the trials of earlier ones if its absence "
            "costs the answer less than this, in nats."
        },
    )
    attribution_preset: str | None = field(
        default=None,
        metadata={
            "help": "'paper': the published procedure (all tokens, 50 points, pad baseline, beta 0.8 absolute) under "
            "one name.",
            "choices": list(PRESETS),
        },
    )
    attribution_strict: bool = field(
        default=False,
        metadata={"help": "Refuse a run in which more than a tenth of the traces have unsettled attributions."},
    )
    attribution_rule: str = field(
        default="hybrid",
        metadata={
            "help": "Quadrature rule of Integrated Gradients: 'hybrid' goes on until two halves of its nodes agree, "
            "'simpson' is adaptive, 'density' places midpoints by the first traces, 'paper' is the published sum.",
            "choices": list(RULES),
        },
    )
    attribution_evaluations: int | None = field(
        default=None,
        metadata={
            "help": "Gradient evaluations per trace; for 'hybrid' and 'simpson' the cap. Default: 32 for 'hybrid' and "
            "'density', 64 for 'simpson', else 50."
        },
    )
    attribution_tolerance: float = field(
        default=0.01,
        metadata={"help": "'simpson' stops when its completeness defects are under this share of F's increase."},
    )
    attribution_stop: str = field(
        default="tolerance",
        metadata={
            "help": "'decision' lets 'simpson' stop when the error no longer changes which segments are kept.",
            "choices": list(STOPS),
        },
    )
    attribution_noise_samples: int = field(
        default=0, metadata={"help": "SmoothGrad: average over this many noisy copies of the input."}
    )
    attribution_path: str = field(
        default="reasoning",
        metadata={
            "help": "What moves from baseline to input: the 'reasoning' alone, or 'all' tokens (the paper).",
            "choices": list(PATHS),
        },
    )
    attribution_baseline: str = field(
        default="pad",
        metadata={
            "help": "Start of the path: the embedding of the 'pad' (the paper) or 'eos' token or of a token ID, "
            "the 'mean' embedding, or 'zero'."
        },
    )
    attribution_max_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Token budget of one forward pass of the attribution: nodes that fit run together, a longer trace "
            "runs with gradient checkpointing. By default planned from the model's shape and the free memory."
        },
    )
    attribution_compile: bool | None = field(
        default=None,
        metadata={"help": "Run decoder layers through torch.compile. By default on CUDA for 64 traces or more."},
    )
    answer_template: str = field(
        default=ANSWER_TEMPLATE,
        metadata={"help": "Text behind the reasoning in the attributed sequence; {answer} stands for the answer."},
    )
    answer_statements: str = field(
        default="visible",
        metadata={
            "help": "What becomes of the places at which the reasoning states the answer: 'visible' to the "
            "attribution model (the paper), 'hidden' from it, or 'only_first' visible.",
            "choices": list(STATEMENTS),
        },
    )

    def __post_init__(self):
        apply_preset(self)
        check_rule(self.attribution_rule, self.attribution_evaluations)
        scorers = SCORER_NAMES
        if self.attribution_scorer not in scorers:
            # Those that users have added are known to the classes alone, which need torch
            from .scorers import SCORERS

            scorers = tuple(SCORERS)
        for name, known in (("scorer", scorers), ("stop", STOPS), ("path", PATHS)):
            value = getattr(self, f"attribution_{name}")
            if value not in known:
                raise ValueError(f"Unknown attribution {name} {value!r}. Pass one of {', '.join(map(repr, known))}.")
        if self.answer_statements not in STATEMENTS:
            raise ValueError(
                f"Unknown `answer_statements` {self.answer_statements!r}. Pass one of "
                f"{', '.join(map(repr, STATEMENTS))}."
            )
        if not 0 < self.attribution_tolerance < 1:
            raise ValueError(
                f"`attribution_tolerance` is a share of F's increase and must be in (0, 1), but "
                f"{self.attribution_tolerance} was passed."
            )
        if not 0 < self.attribution_threshold < math.inf:
            raise ValueError(
                f"`attribution_threshold` is a loss in nats and must be positive, but {self.attribution_threshold} "
                "was passed."
            )
        if self.attribution_noise_samples < 0:
            raise ValueError(
                f"`attribution_noise_samples` counts and cannot be negative, but {self.attribution_noise_samples} was "
                "passed."
            )
        if self.attribution_baseline not in BASELINES and not str(self.attribution_baseline).isdigit():
            raise ValueError(
                f"Unknown attribution baseline {self.attribution_baseline!r}. Pass one of "
                f"{', '.join(map(repr, BASELINES))}, or a token ID."
            )
        if self.answer_template.count("{answer}") != 1:
            raise ValueError(
                f"`answer_template` {self.answer_template!r} must hold {{answer}} exactly once, where the answer "
                "belongs."
            )
        if self.attribution_max_tokens is not None and self.attribution_max_tokens < 1:
            raise ValueError(
                f"`attribution_max_tokens` must be at least 1, but {self.attribution_max_tokens} was passed."
            )
        super().__post_init__()
