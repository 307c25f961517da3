"""Settings that change attribution scores."""

from dataclasses import dataclass, field

from ..traces.alignment import ANSWER_TEMPLATE
from ..traces.trace import TraceConfig
from .integrated_gradients import BASELINES, PATHS
from .quadrature import RULES, check_rule


@dataclass
class AttributionConfig(TraceConfig):
    r"""
    How traces are attributed. Extends [`~trl_segment.traces.TraceConfig`].

    Parameters:
        attribution_rule (`str`, *optional*, defaults to `"paper"`):
            Quadrature rule: `"paper"` (the published sum with both ends in full), `"midpoint"`, `"trapezoid"` or
            `"gauss_legendre"`.
        attribution_evaluations (`int`, *optional*, defaults to `50`):
            Gradient evaluations per trace.
        attribution_path (`str`, *optional*, defaults to `"all"`):
            What moves from baseline to input: `"all"` tokens (the paper) or the `"reasoning"` alone.
        attribution_baseline (`str`, *optional*, defaults to `"pad"`):
            Where the path starts: the embedding of the `"pad"` (the paper) or `"eos"` token or of a token ID, the
            `"mean"` embedding, or `"zero"`.
        attribution_max_tokens (`int`, *optional*, defaults to `16384`):
            Token budget of one forward pass: as many nodes of a trace run together as fit, at least one.
        answer_template (`str`, *optional*):
            What follows the reasoning in the attributed sequence; `{answer}` stands for the answer. Defaults to the
            paper's `</think> So, the final answer is \boxed{{answer}}`.

    Raises:
        `ValueError`: On a value that cannot work.
    """

    attribution_rule: str = field(
        default="paper",
        metadata={"help": "Quadrature rule of Integrated Gradients.", "choices": list(RULES)},
    )
    attribution_evaluations: int = field(default=50, metadata={"help": "Gradient evaluations per trace."})
    attribution_path: str = field(
        default="all",
        metadata={
            "help": "What moves from baseline to input: 'all' tokens (the paper) or the 'reasoning' alone.",
            "choices": list(PATHS),
        },
    )
    attribution_baseline: str = field(
        default="pad",
        metadata={
            "help": "Where the path starts: the embedding of the 'pad' (the paper) or 'eos' token or of a token ID, "
            "the 'mean' embedding, or 'zero'."
        },
    )
    attribution_max_tokens: int = field(
        default=16384,
        metadata={"help": "Token budget of one forward pass of the attribution: nodes that fit run together."},
    )
    answer_template: str = field(
        default=ANSWER_TEMPLATE,
        metadata={"help": "What follows the reasoning in the attributed sequence; {answer} stands for the answer."},
    )

    def __post_init__(self):
        check_rule(self.attribution_rule, self.attribution_evaluations)
        if self.attribution_path not in PATHS:
            raise ValueError(
                f"Unknown attribution path {self.attribution_path!r}. Pass one of {', '.join(map(repr, PATHS))}."
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
        if self.attribution_max_tokens < 1:
            raise ValueError(
                f"`attribution_max_tokens` must be at least 1, but {self.attribution_max_tokens} was passed."
            )
        super().__post_init__()
