r"""
From segment scores to kept segments: the selection rule of arXiv 2602.00425, as pure functions over arrays.

Inputs are three numbers per segment: its token count `n`, `sum_t |a_t|` and `sum_t a_t` over its token attributions
`a_t`. Nothing here knows a model or a tokenizer, so a threshold can be changed without attributing again.
"""

from dataclasses import dataclass, field

import numpy as np


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
        consistency_scale (`str`, *optional*, defaults to `"absolute"`):
            What `beta` is compared with:

            - `"absolute"`: the consistency itself, as in the paper.
            - `"chance"`: what it exceeds the consistency of random signs by, as a share of what it could, since that
              falls with the length of a segment. See [`consistency_above_chance`].
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
            Whose opening word (`Wait`, `Alternatively`) is trained although its segment is dropped:

            - `"after_kept"`: the one after a kept segment, so the model learns to go on. The numbers of the paper were
              obtained this way.
            - `"every"`: every segment's.
            - `"none"`: none, the formula as written.
        selection (`str`, *optional*, defaults to `"attribution"`):
            `"attribution"` is the paper's rule; `"threshold"` keeps every segment with a strength of at least
            `min_strength`, for scores whose unit means something (`"marginal"` and `"counterfactual"`). For comparison
            `"random"` keeps as many segments of each trace as `"attribution"`, drawn at random, and `"all"` keeps
            every segment.
        min_tokens_to_mask (`int`, *optional*, defaults to `0`):
            Traces with fewer reasoning tokens (of the attribution model) are trained in full. The paper's option for
            short examples uses 4,000.

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
        default="absolute",
        metadata={
            "help": "What `beta` is compared with: the 'absolute' consistency (the paper), what it is above the "
            "'chance' consistency of random signs, or its 'rank' in the trace.",
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
            "help": "Whose opening word is trained although its segment is dropped: 'after_kept' (the one after a "
            "kept segment), 'every' or 'none'.",
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

    def __post_init__(self):
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
        if not self.min_strength >= 0:
            raise ValueError(f"`min_strength` cannot be negative, but {self.min_strength} was passed.")
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
            super().__post_init__()


def attribution_strength(sum_abs: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    """
    Attribution strength of segments: `sum_t |a_t| / sqrt(n)`.

    Args:
        sum_abs (`np.ndarray`):
            Sum of the absolute token attributions of each segment, shape (segments,).
        num_tokens (`np.ndarray`):
            Number of tokens of each segment, shape (segments,).

    Returns:
        `np.ndarray`: Shape (segments,), in the unit of the attributions (nats). 0 for a segment without tokens.
    """
    return np.asarray(sum_abs, dtype=np.float64) / np.sqrt(np.maximum(num_tokens, 1))


def direction_consistency(sum_signed: np.ndarray, sum_abs: np.ndarray) -> np.ndarray:
    """
    Direction consistency of segments: `|sum_t a_t| / sum_t |a_t|`.

    Args:
        sum_signed (`np.ndarray`):
            Sum of the signed token attributions of each segment, shape (segments,).
        sum_abs (`np.ndarray`):
            Sum of their absolute values, shape (segments,).

    Returns:
        `np.ndarray`: Shape (segments,), in [0, 1]. 0 for a segment without attribution.
    """
    sum_abs = np.asarray(sum_abs, dtype=np.float64)
    ratio = np.abs(sum_signed) / np.where(sum_abs > 0, sum_abs, 1.0)
    return np.minimum(ratio, 1.0)  # rounding can lift equal signs a hair above 1


def consistency_above_chance(consistency: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    r"""
    Direction consistency on a scale on which segments of different lengths compare.

    `n` tokens of equal size and random sign have an expected consistency of about `c = sqrt(2 / (pi n))`: 0.27 at 9
    tokens, 0.03 at 596. Returned is `(C - c) / (1 - c)`: 0 for random signs at every length, 1 for equal signs.

    Args:
        consistency (`np.ndarray`):
            Direction consistency of each segment, shape (segments,).
        num_tokens (`np.ndarray`):
            Number of tokens of each segment, shape (segments,).

    Returns:
        `np.ndarray`: Shape (segments,), at most 1, negative below chance.
    """
    chance = np.sqrt(2 / (np.pi * np.maximum(num_tokens, 1)))
    return (np.asarray(consistency, dtype=np.float64) - chance) / (1 - chance)


def _scaled_consistency(num_tokens, sum_abs, sum_signed, scale) -> np.ndarray:
    consistency = direction_consistency(sum_signed, sum_abs)
    if scale == "chance":
        return consistency_above_chance(consistency, num_tokens)
    if scale == "rank":
        # Equal ones share the lowest rank, so that a tie is never broken by position
        return np.searchsorted(np.sort(consistency), consistency, side="left") / max(len(consistency), 1)
    return consistency


def strongest_prefix(strength: np.ndarray, tau: float) -> np.ndarray:
    """
    The fewest strongest segments that together hold the share `tau` of all strength.

    Args:
        strength (`np.ndarray`):
            Strength of each segment, shape (segments,), not negative.
        tau (`float`):
            Share to reach, in (0, 1].

    Returns:
        `np.ndarray`: Shape (segments,), `True` for the segments of the prefix. Of equal segments the earlier one comes
        first. All `False` if no segment has any strength.
    """
    strength = np.asarray(strength, dtype=np.float64)
    order = np.argsort(-strength, kind="stable")
    cumulative = np.cumsum(strength[order])
    kept = np.zeros(len(strength), dtype=bool)
    if len(strength) and cumulative[-1] > 0:
        # The tolerance absorbs rounding: ten equal segments reach 0.7 with seven, not eight
        count = np.searchsorted(cumulative, tau * cumulative[-1] * (1 - 1e-12)) + 1
        kept[order[:count]] = strength[order[:count]] > 0
    return kept


def select_segments(
    num_tokens: np.ndarray, sum_abs: np.ndarray, sum_signed: np.ndarray, config: SelectionConfig
) -> np.ndarray:
    """
    Of the strongest segments those whose direction is mixed, and the always-trained ends (the paper's rule).

    `config` can ask for other ideas of "strong" (`selection="threshold"`) and "mixed" (`consistency_scale`), and for
    segments that do not speak against the answer (`min_direction`).

    Args:
        num_tokens (`np.ndarray`):
            Number of tokens of each segment, shape (segments,).
        sum_abs (`np.ndarray`):
            Sum of absolute token attributions of each segment, shape (segments,).
        sum_signed (`np.ndarray`):
            Sum of signed token attributions of each segment, shape (segments,).
        config ([`SelectionConfig`]):
            Thresholds.

    Returns:
        `np.ndarray`: Shape (segments,), `True` for kept segments. All `True` where there is no basis to choose: no
        attribution at all, or fewer than `min_tokens_to_mask` tokens.
    """
    sum_abs = np.asarray(sum_abs, dtype=np.float64)
    if sum_abs.sum() == 0 or np.sum(num_tokens) < config.min_tokens_to_mask:
        return np.ones(len(sum_abs), dtype=bool)
    strength = attribution_strength(sum_abs, num_tokens)
    if config.selection == "threshold":
        kept = strength >= config.min_strength
    else:
        kept = strongest_prefix(strength, config.tau)
    kept &= _scaled_consistency(num_tokens, sum_abs, sum_signed, config.consistency_scale) <= config.beta
    kept &= np.asarray(sum_signed) >= config.min_direction * sum_abs
    kept[: config.keep_first] = True
    kept[max(len(kept) - config.keep_last, 0) :] = True
    return kept


def draw_segments(kept: np.ndarray, config: SelectionConfig, seed: int | list[int]) -> np.ndarray:
    """
    As many segments as a selection keeps, drawn at random: the comparison at the same share.

    Args:
        kept (`np.ndarray`):
            Kept segments of the selection to compare with, shape (segments,).
        config ([`SelectionConfig`]):
            Its always-trained ends stay.
        seed (`int` or `list[int]`):
            Seed of the draw.

    Returns:
        `np.ndarray`: Shape (segments,), with as many `True` as `kept`.
    """
    kept = np.asarray(kept, dtype=bool)
    drawn = np.zeros(len(kept), dtype=bool)
    drawn[: config.keep_first] = True
    drawn[max(len(kept) - config.keep_last, 0) :] = True
    others = np.flatnonzero(~drawn)
    drawn[np.random.default_rng(seed).choice(others, kept.sum() - drawn.sum(), replace=False)] = True
    return drawn


def unit_mask(kept: np.ndarray, transition: str = "after_kept") -> np.ndarray:
    """
    Which units of a trace are trained: for each segment its opening word and the rest.

    Args:
        kept (`np.ndarray`):
            Kept segments, shape (segments,).
        transition (`str`, *optional*, defaults to `"after_kept"`):
            Which dropped segments' opening words are trained too, see [`SelectionConfig`].

    Returns:
        `np.ndarray`: Shape (2 * segments,): at `2 * i` the opening word of segment `i`, at `2 * i + 1` the rest.

    Raises:
        `ValueError`: On an unknown transition.
    """
    kept = np.asarray(kept, dtype=bool)
    openings = kept.copy()
    if transition == "after_kept":
        openings[1:] |= kept[:-1]
    elif transition == "every":
        openings[:] = True
    elif transition != "none":
        raise ValueError(f"Unknown transition {transition!r}. Pass one of {', '.join(map(repr, TRANSITIONS))}.")
    return np.stack([openings, kept], axis=1).reshape(-1)
