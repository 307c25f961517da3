"""Which segments of a trace are trained: the thresholds."""

import math
from dataclasses import dataclass, field


TRANSITIONS = ("after_kept", "every", "none")
SELECTIONS = ("attribution", "threshold", "random", "all")
CONSISTENCY_SCALES = ("absolute", "chance", "rank")


@dataclass
class SelectionConfig:
    """
    Which segments of a trace are trained.

    Parameters:
        tau (`float`, *optional*, defaults to `0.7`):
            Share of the total attribution strength that the kept segments must reach, in (0, 1].
        beta (`float`, *optional*, defaults to `0.8`):
            Highest direction consistency of a kept segment, in [0, 1]. Segments above it are dropped.
        consistency_scale (`str`, *optional*, defaults to `"rank"`):
            The scale of `beta`:

            - `"absolute"`: the consistency itself, as in the paper.
            - `"chance"`: the consistency above that of random signs, as a share of the most that it can be, since that
              of random signs falls with the length of a segment. See [`consistency_above_chance`].
            - `"rank"`: its rank among the segments of the trace, so that the share `1 - beta` is dropped.
        min_direction (`float`, *optional*, defaults to `-1.0`):
            Lowest direction `sum_t a_t / sum_t |a_t|` of a kept segment, in [-1, 1]. Segments below it, which speak
            against the answer, are dropped. -1 drops none.
        min_strength (`float`, *optional*, defaults to `1.0`):
            Lowest strength of a kept segment with `selection="threshold"`, in the unit of the scores (nats).
        keep_first (`int`, *optional*, defaults to `1`):
            Number of segments at the start of a trace that are always trained.
        keep_last (`int`, *optional*, defaults to `2`):
            Number of segments at the end of a trace that are always trained.
        transition (`str`, *optional*, defaults to `"after_kept"`):
            The dropped segments whose opening word (`Wait`, `Alternatively`) is trained:

            - `"after_kept"`: those after a kept segment, so the model learns to go on. The paper obtained its numbers
              this way.
            - `"every"`: all of them.
            - `"none"`: none, the formula as written.
        selection (`str`, *optional*, defaults to `"attribution"`):
            `"attribution"` is the paper's rule; `"threshold"` keeps every segment with a strength of at least
            `min_strength`, for scores whose unit means something (`"marginal"` and `"counterfactual"`). For comparison
            `"random"` keeps as many segments of each trace as `"attribution"`, drawn at random, and `"all"` keeps
            every segment.
        min_tokens_to_mask (`int`, *optional*, defaults to `0`):
            Traces with fewer reasoning tokens (of the attribution model) are trained in full. The paper's option for
            short examples uses 4,000.
        min_gain (`float`, *optional*):
            Traces whose reasoning raises the answer's log-probability by less than this, in nats, are trained in full:
            the attribution model does not read them, or knows the answer without them, so their scores say nothing.
            By default they are selected from as others are, and a run says how many there are.
        seed (`int`, *optional*, defaults to `42`):
            Seed of `selection="random"`. It is the trainer's own seed there, so that a command that is given the same
            one shows what training draws.

    Raises:
        `ValueError`: On a value outside its range.
    """

    tau: float = field(
        default=0.7,
        metadata={"help": "Share of the total attribution strength that kept segments must reach, in (0, 1]."},
    )
    beta: float = field(
        default=0.8,
        metadata={"help": "Highest direction consistency of a kept segment, in [0, 1]. Segments above are dropped."},
    )
    consistency_scale: str = field(
        default="rank",
        metadata={
            "help": "Scale of `beta`: the 'absolute' consistency (the paper), the consistency above the 'chance' "
            "consistency of random signs, or its 'rank' in the trace.",
            "choices": list(CONSISTENCY_SCALES),
        },
    )
    min_direction: float = field(
        default=-1.0,
        metadata={"help": "Lowest direction (signed over absolute sum) of a kept segment, in [-1, 1]. -1 drops none."},
    )
    min_strength: float = field(
        default=1.0, metadata={"help": "Lowest strength of a kept segment with `selection='threshold'`, in nats."}
    )
    keep_first: int = field(
        default=1, metadata={"help": "Number of segments at the start of a trace that are always trained."}
    )
    keep_last: int = field(
        default=2, metadata={"help": "Number of segments at the end of a trace that are always trained."}
    )
    transition: str = field(
        default="after_kept",
        metadata={
            "help": "The dropped segments whose opening word is trained: those 'after_kept' segments, 'every' one or "
            "'none'.",
            "choices": list(TRANSITIONS),
        },
    )
    selection: str = field(
        default="attribution",
        metadata={
            "help": "'attribution' is the paper's rule, 'threshold' keeps every segment of at least `min_strength`; "
            "for comparison 'random' keeps as many segments of each trace, drawn at random, and 'all' every segment.",
            "choices": list(SELECTIONS),
        },
    )
    min_tokens_to_mask: int = field(
        default=0,
        metadata={"help": "Traces with fewer reasoning tokens are trained in full (the paper's option uses 4000)."},
    )
    min_gain: float | None = field(
        default=None,
        metadata={
            "help": "Traces whose reasoning raises the answer's log-probability by less than this, in nats, are "
            "trained in full: their scores say nothing."
        },
    )
    seed: int = field(
        default=42,
        metadata={"help": "Seed of `selection='random'`, and in training of everything else that is random."},
    )

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(
                f"`tau` is the share of attribution strength to keep and must be in (0, 1], but {self.tau} was "
                "passed. The paper uses 0.7; 1 keeps every segment that has any attribution."
            )
        if not 0 <= self.beta <= 1:
            raise ValueError(
                f"`beta` bounds a direction consistency and must be in [0, 1], but {self.beta} was passed. The paper "
                "uses 0.8; 1 drops no segment for its consistency."
            )
        if self.consistency_scale not in CONSISTENCY_SCALES:
            raise ValueError(
                f"Unknown consistency scale {self.consistency_scale!r}. Pass one of "
                f"{', '.join(map(repr, CONSISTENCY_SCALES))}."
            )
        if not -1 <= self.min_direction <= 1:
            raise ValueError(
                f"`min_direction` bounds a direction and must be in [-1, 1], but {self.min_direction} was passed. -1 "
                "drops no segment."
            )
        if not 0 <= self.min_strength < math.inf:
            raise ValueError(f"`min_strength` cannot be negative or infinite, but {self.min_strength} was passed.")
        if self.min_gain is not None and not math.isfinite(self.min_gain):
            raise ValueError(f"`min_gain` is a log-probability in nats and must be finite, but got {self.min_gain}.")
        if self.transition not in TRANSITIONS:
            raise ValueError(
                f"Unknown transition {self.transition!r}. Pass one of {', '.join(map(repr, TRANSITIONS))}."
            )
        if self.selection not in SELECTIONS:
            raise ValueError(f"Unknown selection {self.selection!r}. Pass one of {', '.join(map(repr, SELECTIONS))}.")
        for name in ("keep_first", "keep_last", "min_tokens_to_mask"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` counts and cannot be negative, but {getattr(self, name)} was passed.")
        # The config class of the trainer inherits from this one and from TrainingArguments
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]
