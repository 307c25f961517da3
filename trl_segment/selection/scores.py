"""What a selection knows of a trace's segments: a strength, and for signed token attributions a direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SegmentScores:
    """
    Scores of the segments of one trace, either summed up from token attributions or given to the segments as a whole.

    Args:
        num_tokens (`np.ndarray`):
            Number of tokens of each segment, shape (segments,).
        sum_abs (`np.ndarray`, *optional*):
            Sum of the absolute token attributions of each segment, shape (segments,).
        sum_signed (`np.ndarray`, *optional*):
            Sum of the signed token attributions of each segment, shape (segments,). Belongs to `sum_abs`.
        scores (`np.ndarray`, *optional*):
            Score of each segment as a whole, shape (segments,), not negative. In place of the two sums.
        gain (`float`, *optional*):
            By how much the reasoning raises the answer's log-probability, in nats, where that is known.

    Raises:
        `ValueError`: If the arrays have different lengths, or neither or both kinds of scores are given.
    """

    num_tokens: np.ndarray
    sum_abs: np.ndarray | None = None
    sum_signed: np.ndarray | None = None
    scores: np.ndarray | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None and name != "gain"}
        if given.keys() - {"num_tokens"} not in ({"sum_abs", "sum_signed"}, {"scores"}):
            raise ValueError(
                f"Segments have either `sum_abs` and `sum_signed` or `scores`, but {', '.join(given)} were passed."
            )
        for name, value in given.items():
            array = np.asarray(value, dtype=np.int64 if name == "num_tokens" else np.float64)
            if array.shape != np.shape(self.num_tokens):
                raise ValueError(
                    f"There must be one number for each of the {len(self.num_tokens)} segments, but `{name}` has the "
                    f"shape {array.shape}."
                )
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.num_tokens)

    @property
    def directed(self) -> bool:
        """Whether the segments have a direction, which only signed token attributions give them."""
        return self.scores is None

    @property
    def strength(self) -> np.ndarray:
        """Strength of each segment, in the unit of its scores, shape (segments,)."""
        if self.scores is not None:
            return self.scores
        assert self.sum_abs is not None
        return attribution_strength(self.sum_abs, self.num_tokens)

    @property
    def consistency(self) -> np.ndarray:
        """Direction consistency of each segment in [0, 1], shape (segments,); NaN where there is no direction."""
        if self.sum_abs is None or self.sum_signed is None:
            return np.full(len(self), np.nan)
        return direction_consistency(self.sum_signed, self.sum_abs)

    def scaled_consistency(self, scale: str) -> np.ndarray:
        """
        Direction consistency on one of the scales of [`~trl_segment.SelectionConfig`].

        Args:
            scale (`str`):
                `"absolute"`, `"chance"` or `"rank"`.

        Returns:
            `np.ndarray`: Shape (segments,); NaN where there is no direction.
        """
        consistency = self.consistency
        if not self.directed:
            return consistency
        if scale == "chance":
            return consistency_above_chance(consistency, self.num_tokens)
        if scale == "rank":
            # Equal ones share the lowest rank, so that a tie is never broken by position
            return np.searchsorted(np.sort(consistency), consistency, side="left") / max(len(consistency), 1)
        return consistency


def sum_over_segments(tokens: np.ndarray, segments: Sequence[tuple[int, int]]) -> SegmentScores:
    """
    Scores of segments from the attributions of their tokens.

    Args:
        tokens (`np.ndarray`):
            Signed attribution of each token, shape (tokens,).
        segments (`Sequence[tuple[int, int]]`):
            Token span of each segment.

    Returns:
        [`SegmentScores`]: Token counts, sums of absolute and sums of signed attributions.
    """
    return SegmentScores(
        num_tokens=np.array([end - start for start, end in segments], dtype=np.int64),
        sum_abs=np.array([np.abs(tokens[start:end]).sum() for start, end in segments], dtype=np.float64),
        sum_signed=np.array([tokens[start:end].sum() for start, end in segments], dtype=np.float64),
    )


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
