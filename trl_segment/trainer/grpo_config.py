"""Configuration of [`SegmentWeightedGRPOTrainer`]."""

import math
from dataclasses import dataclass, field, fields

from trl import GRPOConfig

from ..attribution import SCORERS, AttributionConfig
from ..configs import config_of
from ..selection import SelectionConfig
from ..selection.config import SELECTIONS, TRANSITIONS
from ..traces.columns import COLUMN_OPTIONS
from ..traces.statements import STATEMENTS
from .options import name_checkpointing


# Gradient evaluations of a completion that a scorer may cost: an update costs one
MOST_EVALUATIONS = 2.0

# Where the row's text stands says nothing here: prompt and completion are the policy's own
_OF_ROWS = ("answer_column", "question_template", *COLUMN_OPTIONS)


@dataclass
class SegmentWeightedGRPOConfig(SelectionConfig, AttributionConfig, GRPOConfig):
    r"""
    Configuration class for the [`SegmentWeightedGRPOTrainer`].

    Takes every parameter of [`~trl.GRPOConfig`], those of the three classes below, and its own. `seed`, of both
    [`~trl.GRPOConfig`] and [`~trl_segment.SelectionConfig`], is one and the same here. `beta` is
    [`~trl.GRPOConfig`]'s, the coefficient of the KL divergence: no segment is dropped for its consistency. What says
    how a dataset's row is read (`answer_column`, `question_template`, `question_column`, `solution_column`,
    `reasoning_column`, `response_column`) is refused: the prompt is the row's `prompt`, and all else is the policy's
    own text. So is `attribution_preset`, which is of `integrated_gradients`.

    - [`~trl_segment.SelectionConfig`], which segments have the weight of kept ones: `selection`, `tau`,
      `min_direction`, `min_strength`, `keep_first`, `keep_last`, `transition`, `min_tokens_to_mask`, `min_gain`,
      `seed`. `consistency_scale` has nothing to say without its `beta`.
    - [`~trl_segment.AttributionConfig`], how completions are scored: `attribution_scorer`, `attribution_threshold`,
      `attribution_max_tokens`, `answer_template`, `answer_statements`, and what only gradients read
      (`attribution_strict`, `attribution_rule`, `attribution_evaluations`,
      `attribution_tolerance`, `attribution_stop`, `attribution_noise_samples`, `attribution_path`,
      `attribution_baseline`, `attribution_compile`).
    - [`~trl_segment.TraceConfig`], where a completion's reasoning is and is cut: `segmenter`, `segment_pattern`,
      `reasoning_start`, `reasoning_end`.

    Parameters:
        segment_weight_kept (`float`, *optional*, defaults to `2.0`):
            Weight of the tokens of kept segments. Tokens outside the reasoning weigh 1. The weights of a completion
            are then divided by their mean, so only their ratios matter.
        segment_weight_dropped (`float`, *optional*, defaults to `1.0`):
            Weight of the tokens of dropped segments; 0 takes them out of the policy gradient.
        segment_weight_negative (`bool`, *optional*, defaults to `True`):
            Whether completions with a negative advantage are weighted too, by what led to the answer that they give.
            If `False`, they weigh 1 throughout and are not scored.
        attribution_scorer (`str`, *optional*, defaults to `"marginal"`):
            The scorer of the segments, see [`~trl_segment.AttributionConfig`]. It runs on every completion, so that
            one of more than two gradient evaluations is refused, and so is `"counterfactual"`, which rewrites.
        answer_statements (`str`, *optional*, defaults to `"hidden"`):
            See [`~trl_segment.AttributionConfig`]. A model that states its answer before it ends its reasoning would
            otherwise be rewarded for the statement alone.
        selection (`str`, *optional*, defaults to `"threshold"`):
            See [`~trl_segment.SelectionConfig`]. `"threshold"` needs scores in nats (`"marginal"`); with other scorers
            use `"attribution"`, the strongest segments that hold the share `tau`. `"all"` is refused.
        keep_first (`int`, *optional*, defaults to `0`):
            Number of segments at the start of a reasoning that always have the weight of kept ones.
        keep_last (`int`, *optional*, defaults to `0`):
            The same at its end.
        beta (`float`, *optional*, defaults to `0.0`):
            KL coefficient of [`~trl.GRPOConfig`], not the highest consistency of a kept segment as elsewhere.
        transition (`str`, *optional*, defaults to `"none"`):
            The dropped segments whose opening word has the weight of kept ones: `"after_kept"`, `"every"` or `"none"`.

    Raises:
        `ValueError`: On a value that cannot work.
    """

    segment_weight_kept: float = field(
        default=2.0, metadata={"help": "Weight of kept segments. The weights of a completion are scaled to mean 1."}
    )
    segment_weight_dropped: float = field(
        default=1.0, metadata={"help": "Weight of dropped segments; 0 takes them out of the policy gradient."}
    )
    segment_weight_negative: bool = field(
        default=True, metadata={"help": "Whether completions with a negative advantage are weighted too."}
    )
    attribution_scorer: str = field(
        default="marginal",
        metadata={
            "help": "The scorer of the segments, of at most two gradient evaluations a completion.",
            "choices": list(SCORERS),
        },
    )
    answer_statements: str = field(
        default="hidden",
        metadata={
            "help": "What becomes of the places at which the reasoning states the answer: 'hidden' from the scorer, "
            "'visible', or 'only_first' visible.",
            "choices": list(STATEMENTS),
        },
    )
    selection: str = field(
        default="threshold",
        metadata={
            "help": "'threshold' gives every segment of at least `min_strength` the weight of kept ones, "
            "'attribution' the strongest that hold `tau`, 'random' as many at random.",
            "choices": list(SELECTIONS),
        },
    )
    keep_first: int = field(
        default=0, metadata={"help": "Number of segments at the start that always have the weight of kept ones."}
    )
    keep_last: int = field(
        default=0, metadata={"help": "Number of segments at the end that always have the weight of kept ones."}
    )
    beta: float = field(
        default=0.0, metadata={"help": "Coefficient of the KL divergence from the reference model, as in TRL."}
    )
    transition: str = field(
        default="none",
        metadata={
            "help": "The dropped segments whose opening word has the weight of kept ones: those 'after_kept' "
            "segments, 'every' one or 'none'.",
            "choices": list(TRANSITIONS),
        },
    )

    def __post_init__(self):
        if not 0 < self.segment_weight_kept < math.inf or not 0 <= self.segment_weight_dropped < math.inf:
            raise ValueError(
                "`segment_weight_kept` must be positive, `segment_weight_dropped` at least 0, and both finite, but "
                f"{self.segment_weight_kept} and {self.segment_weight_dropped} were passed."
            )
        defaults = {field.name: field.default for field in fields(self)}
        for name in _OF_ROWS:
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"`{name}` {getattr(self, name)!r} says how a dataset's row is read, but here prompt and "
                    "completion are the policy's own, and what is explained is the answer that the completion gives. "
                    "Leave the option out, and give rows a column 'prompt'."
                )
        if self.attribution_preset is not None:
            raise ValueError(
                f"`attribution_preset={self.attribution_preset!r}` is a procedure of Integrated Gradients, which "
                "would make some fifty gradient evaluations of every completion. Leave it out."
            )
        if self.importance_sampling_level == "sequence":
            raise ValueError(
                "`importance_sampling_level='sequence'` gives a completion one ratio and clips it as a whole, so its "
                "tokens cannot have weights of their own. Use 'token', or TRL's GRPOTrainer."
            )
        # The two parents mean different things by it, and one of them checks what it means
        divergence, self.beta = self.beta, 1.0
        name_checkpointing(self, GRPOConfig)
        super().__post_init__()
        self.beta = divergence
        self._check_scorer()

    @property
    def segment_selection(self) -> SelectionConfig:
        """Which segments have the weight of kept ones, as a config of its own."""
        return config_of(SelectionConfig, self, beta=1.0)

    def _check_scorer(self):
        """After the parents, which know what a scorer and a selection are called."""
        name, scorer = self.attribution_scorer, SCORERS[self.attribution_scorer]
        evaluations = scorer.most_evaluations(self)
        if evaluations is not None and evaluations > MOST_EVALUATIONS:
            raise ValueError(
                f"`attribution_scorer={name!r}` costs up to {evaluations:g} gradient evaluations of every completion, "
                f"where the update itself costs one, so a step would take about {evaluations:g} times as long. Use "
                f"'marginal' or another scorer of at most {MOST_EVALUATIONS:g}."
            )
        if getattr(scorer, "default_rounds", 0):
            raise ValueError(
                f"`attribution_scorer={name!r}` rewrites the text behind every segment in up to "
                f"{scorer.default_rounds} rounds, each a pass over it, for every completion. Use 'marginal'."
            )
        if self.selection == "all":
            raise ValueError(
                "`selection='all'` keeps every segment, so no token would have a weight of its own. Use 'threshold', "
                "'attribution' or 'random', or TRL's GRPOTrainer."
            )
        if self.selection == "threshold" and scorer.unit != "nats":
            raise ValueError(
                f"`selection='threshold'` compares scores with `min_strength={self.min_strength}` nats, but "
                f"{name!r} gives {scorer.unit or 'numbers without a unit'}. Use `selection='attribution'`, which "
                "keeps the strongest segments that hold the share `tau`."
            )
