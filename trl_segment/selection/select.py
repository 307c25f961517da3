r"""
From segment scores to kept segments: the selection rule of arXiv 2602.00425, as pure functions over arrays.

Nothing here knows a model or a tokenizer, so a threshold can be changed without attributing again.
"""

from dataclasses import dataclass

import numpy as np

from .config import TRANSITIONS, SelectionConfig
from .scores import SegmentScores


# Why a segment is kept or dropped
KEPT = "kept"
KEPT_ALWAYS = "kept, always"
DROPPED_WEAK = "dropped, weak"
DROPPED_ONE_SIDED = "dropped, one-sided"
DROPPED_AGAINST = "dropped, against"
DROPPED_BY_CHANCE = "dropped, by chance"
VERDICTS = (KEPT, KEPT_ALWAYS, DROPPED_WEAK, DROPPED_ONE_SIDED, DROPPED_AGAINST, DROPPED_BY_CHANCE)


@dataclass(frozen=True, eq=False)
class Selection:
    """
    Which segments of a trace are kept, and why.

    Args:
        kept (`np.ndarray`):
            Whether each segment is kept, bool, shape (segments,).
        verdicts (`tuple[str, ...]`):
            One of [`VERDICTS`] for each segment: `"kept, always"` for the ends that are trained whatever their scores,
            `"kept"` for the others that are trained; `"dropped, weak"` where the stronger segments reach `tau` without
            it (or it is under `min_strength`), `"dropped, against"` where it is strong enough but its direction is
            under `min_direction`, `"dropped, one-sided"` where its consistency alone is above `beta`, and
            `"dropped, by chance"` with `selection="random"`.
    """

    kept: np.ndarray
    verdicts: tuple[str, ...]


def strongest_prefix(strength: np.ndarray, tau: float) -> np.ndarray:
    """
    The fewest strongest segments that together hold the share `tau` of all strength.

    Args:
        strength (`np.ndarray`):
            Strength of each segment, shape (segments,), not negative.
        tau (`float`):
            Share to reach, in (0, 1].

    Returns:
        `np.ndarray`: Shape (segments,), `True` for the segments of the prefix. The earlier of two equal
        ones comes first. All `False` if no segment has any strength.
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


def trained_in_full(scores: SegmentScores, config: SelectionConfig) -> bool:
    """
    Whether there is no basis to choose among the segments of a trace.

    Args:
        scores ([`SegmentScores`]):
            Scores of the segments.
        config ([`SelectionConfig`]):
            Thresholds.

    Returns:
        `bool`: True without any attribution, with fewer than `min_tokens_to_mask` tokens, where the reasoning raises
        the answer's log-probability by less than `min_gain`, and where every segment is asked for.
    """
    unread = config.min_gain is not None and scores.gain is not None and scores.gain < config.min_gain
    short = scores.num_tokens.sum() < config.min_tokens_to_mask
    return bool(config.selection == "all" or unread or short or scores.strength.sum() == 0)


def always_trained(segments: int, config: SelectionConfig) -> np.ndarray:
    """
    The segments at the ends of a trace that are trained whatever their scores.

    Args:
        segments (`int`):
            Number of segments of the trace.
        config ([`SelectionConfig`]):
            `keep_first` and `keep_last` count.

    Returns:
        `np.ndarray`: Bool, shape (segments,).
    """
    always = np.zeros(segments, dtype=bool)
    always[: config.keep_first] = True
    always[max(segments - config.keep_last, 0) :] = True
    return always


def select(scores: SegmentScores, config: SelectionConfig, key: str = "0") -> Selection:
    """
    Choose the segments of a trace that are trained, by whatever `config.selection` names.

    The paper's rule (section 3) keeps the strongest segments whose direction is mixed, and the ends of the trace.
    Segments without a direction (scores of a segment as a whole) are chosen by strength alone.

    Args:
        scores ([`SegmentScores`]):
            Scores of the segments.
        config ([`SelectionConfig`]):
            Thresholds.
        key (`str`, *optional*, defaults to `"0"`):
            Key of the trace (hexadecimal). With `config.seed` it decides what `selection="random"` draws.

    Returns:
        [`Selection`]: Kept segments with a verdict for each. All are kept where there is no basis to choose: no
        attribution at all, too few tokens, or a reasoning that does not raise the answer: see [`trained_in_full`].
    """
    count = len(scores)
    strength = scores.strength
    always = always_trained(count, config)
    if trained_in_full(scores, config):
        verdicts = np.where(always, KEPT_ALWAYS, KEPT)
        return Selection(np.ones(count, dtype=bool), tuple(verdicts.tolist()))
    if config.selection == "threshold":
        strong = strength >= config.min_strength
    else:
        strong = strongest_prefix(strength, config.tau)
    against: np.ndarray = np.zeros(count, dtype=bool)
    one_sided = against
    if scores.sum_abs is not None and scores.sum_signed is not None:
        against = scores.sum_signed < config.min_direction * scores.sum_abs
        one_sided = scores.scaled_consistency(config.consistency_scale) > config.beta
    kept = always | (strong & ~against & ~one_sided)
    if config.selection == "random":
        kept = _draw(kept, always, [config.seed, int(key, 16)])
        verdicts = np.where(always, KEPT_ALWAYS, np.where(kept, KEPT, DROPPED_BY_CHANCE))
    else:
        why_not = np.where(~strong, DROPPED_WEAK, np.where(against, DROPPED_AGAINST, DROPPED_ONE_SIDED))
        verdicts = np.where(always, KEPT_ALWAYS, np.where(kept, KEPT, why_not))
    return Selection(kept, tuple(verdicts.tolist()))


def select_segments(
    num_tokens: np.ndarray,
    sum_abs: np.ndarray,
    sum_signed: np.ndarray,
    config: SelectionConfig,
    key: str = "0",
) -> np.ndarray:
    """
    Kept segments from the sums of their token attributions: [`select`] over bare arrays.

    Args:
        num_tokens (`np.ndarray`):
            Number of tokens of each segment, shape (segments,).
        sum_abs (`np.ndarray`):
            Sum of absolute token attributions of each segment, shape (segments,).
        sum_signed (`np.ndarray`):
            Sum of signed token attributions of each segment, shape (segments,).
        config ([`SelectionConfig`]):
            Thresholds; every value of `selection` is understood.
        key (`str`, *optional*, defaults to `"0"`):
            Key of the trace, for `selection="random"`.

    Returns:
        `np.ndarray`: Bool, shape (segments,), `True` for kept segments.
    """
    return select(SegmentScores(num_tokens, sum_abs, sum_signed), config, key).kept


def near_threshold(scores: SegmentScores, config: SelectionConfig, margin: float = 0.1) -> np.ndarray:
    """
    Segments that a small change of their scores, or of a threshold, would decide otherwise.

    Args:
        scores ([`SegmentScores`]):
            Scores of the segments.
        config ([`SelectionConfig`]):
            Thresholds.
        margin (`float`, *optional*, defaults to `0.1`):
            How near is near: as a share of the weakest strength that is kept, and absolute for the consistency, which
            counts for segments that are strong enough.

    Returns:
        `np.ndarray`: Bool, shape (segments,). The ends that are trained whatever their scores are near nothing.
    """
    strength = scores.strength
    near = np.zeros(len(scores), dtype=bool)
    if trained_in_full(scores, config):
        return near
    if config.selection == "threshold":
        strong, level = strength >= config.min_strength, config.min_strength
    else:
        strong = strongest_prefix(strength, config.tau)
        level = strength[strong].min()
    # With every segment strong enough there is no level to be near to
    near = (np.abs(strength - level) <= margin * level) & ~strong.all()
    # The weakest of the strongest is at the level by definition: it is near if the next one is
    if config.selection != "threshold" and near.sum() == 1:
        near[:] = False
    if scores.directed and config.beta < 1:
        near |= strong & (np.abs(scores.scaled_consistency(config.consistency_scale) - config.beta) <= margin)
    return near & ~always_trained(len(scores), config)


def _draw(kept: np.ndarray, always: np.ndarray, seed: list[int]) -> np.ndarray:
    """As many segments as are kept, drawn at random but for the ends: the comparison at the same share."""
    drawn = always.copy()
    others = np.flatnonzero(~always)
    drawn[np.random.default_rng(seed).choice(others, kept.sum() - always.sum(), replace=False)] = True
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
