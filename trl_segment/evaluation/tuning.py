"""
Which thresholds suit a model and a dataset, by the paper's criterion: how much more the kept segments raise the
model's confidence in the right answer than the dropped ones do.

Only stored scores and the gains of segments enter, so a sweep attributes nothing. A segment's gain is exact: the
log-probability of the answer after it minus that before it ([`~trl_segment.evaluation.confidence.answer_log_probs`]),
where the paper samples answers. Always-trained segments are left out on both sides, since no threshold moves them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..selection import SegmentScores, SelectionConfig, always_trained, select
from .metrics import Estimate


TAUS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
BETAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class ScoredTrace:
    """
    A trace's stored scores and its segments' gains.

    Args:
        scores ([`~trl_segment.selection.SegmentScores`]):
            Stored scores of its segments.
        gains (`np.ndarray`):
            What each segment adds to the confidence in the answer, shape (segments,).
    """

    scores: SegmentScores
    gains: np.ndarray


@dataclass(frozen=True)
class Sweep:
    """
    A sweep over pairs of thresholds.

    Args:
        taus, betas (`tuple[float, ...]`):
            The thresholds.
        gap (`np.ndarray`):
            Mean gain of kept minus mean gain of dropped segments, in the unit of the gains, shape (taus, betas); `nan`
            where nothing is kept or nothing is dropped.
        eligible (`np.ndarray`):
            Whether a pair both keeps and drops enough segments to be judged, shape (taus, betas). The others have a
            gap, but are never the best.
        low, high (`np.ndarray`):
            95 % bootstrap interval of the gap over traces, shape (taus, betas).
        kept_segments, kept_tokens (`np.ndarray`):
            Share of all segments, and of their tokens, that are kept, always-trained ones included, shape (taus,
            betas).
        best (`tuple[int, int]` or `None`):
            Indices of the largest gap. `None` if no pair is eligible.
        best_held_out ([`Estimate`]):
            Gap of the pair that is best on resampled traces, on the traces that the resample lacks: the largest of
            many gaps is too large by itself.
        chosen (`np.ndarray`):
            Share of resamples in which each pair is the best, shape (taus, betas).
        equal (`np.ndarray`):
            Whether a pair cannot be told from the best one (the 95 % interval of their paired difference holds 0),
            shape (taus, betas).
        overlap (`np.ndarray`):
            Mean Jaccard index of a pair's selection with those of its neighbours (one threshold one step away), over
            traces and neighbours, shape (taus, betas). Always-trained segments do not count.
        resampled, held_out (`np.ndarray`):
            Gap on each resample of the traces, and on the traces that the resample lacks, shape (resamples, taus,
            betas). Sweeps over as many traces with the same seed have the same resamples.
    """

    taus: tuple[float, ...]
    betas: tuple[float, ...]
    gap: np.ndarray
    eligible: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kept_segments: np.ndarray
    kept_tokens: np.ndarray
    best: tuple[int, int] | None
    best_held_out: Estimate
    chosen: np.ndarray
    equal: np.ndarray
    overlap: np.ndarray
    resampled: np.ndarray
    held_out: np.ndarray

    @property
    def figures(self) -> dict[str, Any]:
        """Everything but the single resamples, as plain values by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("resampled", "held_out")}


@dataclass(frozen=True)
class Challenge:
    """
    The best pair of several sweeps against the one in use.

    Args:
        title (`str`):
            Title of the sweep that the best pair is of.
        tau, beta (`float`):
            The best pair.
        gain ([`Estimate`]):
            What the pair that is best on resampled traces has more of the gap than the pair in use, on the traces that
            the resample lacks, in the unit of the gains. NaN where there are too few traces to leave any out.
    """

    title: str
    tau: float
    beta: float
    gain: Estimate

    @property
    def clear(self) -> bool:
        """Whether the best pair is better by more than the traces' chance: the interval of the gain is above 0."""
        return self.gain.low > 0


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """
    Jaccard index of two selections: segments in both over segments in either.

    Args:
        first (`np.ndarray`):
            Kept segments, shape (segments,).
        second (`np.ndarray`):
            Kept segments, shape (segments,).

    Returns:
        `float`: In [0, 1]; 1 where neither keeps any.
    """
    either = np.sum(first | second)
    return float(np.sum(first & second) / either) if either else 1.0


def sweep_thresholds(
    traces: Sequence[ScoredTrace],
    config: SelectionConfig,
    taus: Sequence[float] = TAUS,
    betas: Sequence[float] = BETAS,
    min_share: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> Sweep:
    """
    Sweep `tau` and `beta`.

    Args:
        traces (`Sequence[ScoredTrace]`):
            Traces with scores and gains.
        config ([`~trl_segment.SelectionConfig`]):
            Everything but the two thresholds.
        taus (`Sequence[float]`, *optional*):
            Values of `tau`, ascending.
        betas (`Sequence[float]`, *optional*):
            Values of `beta`, ascending.
        min_share (`float`, *optional*, defaults to `0.05`):
            A pair is judged if it keeps, and drops, at least this share of the segments that are not always trained. A
            mean over a handful of segments is noise, and the largest of many gaps would be found there.
        resamples (`int`, *optional*, defaults to `1000`):
            Bootstrap resamples of traces.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        [`Sweep`]: The result.

    Raises:
        `ValueError`: If there is no trace.
    """
    if not traces:
        raise ValueError(
            "There is no trace to sweep over: the store holds none that was attributed, or none of them is in the "
            "dataset."
        )
    shape = (len(taus), len(betas))
    # Per pair and trace: gain and number of kept, of dropped
    sums = np.zeros((*shape, len(traces), 4))
    kept_segments, kept_tokens, overlap = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    pairs = [[replace(config, tau=tau, beta=beta) for beta in betas] for tau in taus]
    for index, trace in enumerate(traces):
        free = ~always_trained(len(trace.gains), config)
        kept = np.array([[select(trace.scores, pair).kept for pair in row] for row in pairs])
        for column, (chosen, values) in enumerate(
            ((kept & free, trace.gains), (kept & free, 1.0), (~kept & free, trace.gains), (~kept & free, 1.0))
        ):
            sums[..., index, column] = (chosen * values).sum(axis=-1)
        kept_segments += kept.sum(axis=-1)
        kept_tokens += kept @ trace.scores.num_tokens.astype(np.float64)
        overlap += _overlap_with_neighbours(kept & free)

    # A pair's gap over any weighting of the traces
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(traces), np.full(len(traces), 1 / len(traces)), size=resamples)
    totals = sums.sum(axis=2)
    gap = _gap(totals)
    smaller = np.minimum(totals[..., 1], totals[..., 3])
    eligible = (smaller > 0) & (smaller >= min_share * (totals[..., 1] + totals[..., 3]))
    resampled = _gap(np.einsum("rt,abtk->rabk", counts, sums, optimize=True))
    held_out = _gap(np.einsum("rt,abtk->rabk", counts == 0, sums, optimize=True))
    low, high = _quantiles(resampled)

    best, chosen, equal = None, np.zeros(shape), np.zeros(shape, dtype=bool)
    best_held_out = Estimate(float("nan"), float("nan"), float("nan"))
    if eligible.any():
        best = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(eligible, gap, -np.inf)), shape))
        flat = np.where(eligible, resampled, np.nan).reshape(resamples, -1)
        usable = ~np.isnan(flat).all(axis=1)
        winners = np.nanargmax(flat[usable], axis=1)
        chosen = np.bincount(winners, minlength=flat.shape[1]).reshape(shape) / max(usable.sum(), 1)
        values = held_out.reshape(resamples, -1)[usable, winners]
        values = values[~np.isnan(values)]
        if len(values):
            best_held_out = Estimate(float(values.mean()), *map(float, np.quantile(values, [0.025, 0.975])))
        difference_low, _ = _quantiles(resampled[:, best[0], best[1]][:, None, None] - resampled)
        equal = (difference_low <= 0) & eligible
    segments = sum(len(trace.gains) for trace in traces)
    tokens = sum(float(trace.scores.num_tokens.sum()) for trace in traces)
    return Sweep(
        taus=tuple(taus),
        betas=tuple(betas),
        gap=gap,
        eligible=eligible,
        low=low,
        high=high,
        kept_segments=kept_segments / segments,
        kept_tokens=kept_tokens / max(tokens, 1.0),
        best=best,
        best_held_out=best_held_out,
        chosen=chosen,
        equal=equal,
        overlap=overlap / len(traces),
        resampled=resampled,
        held_out=held_out,
    )


def challenge(sweeps: Mapping[str, Sweep], title: str, tau: float, beta: float) -> Challenge | None:
    """
    Ask whether any pair of several sweeps is better than the one in use.

    The largest of many gaps is too large by itself, and so is its distance to any other. So the pair is chosen on
    resampled traces and compared on the traces that the resample lacks.

    Args:
        sweeps (`Mapping[str, Sweep]`):
            Sweeps over the same traces by title, e.g. one for each scale of the consistency.
        title (`str`):
            Title of the sweep that the pair in use is of.
        tau (`float`):
            The pair in use.
        beta (`float`):
            The pair in use.

    Returns:
        [`Challenge`] or `None`: `None` if the pair in use is not in its sweep, or cannot be judged.
    """
    used = sweeps.get(title)
    if used is None or tau not in used.taus or beta not in used.betas:
        return None
    place = used.taus.index(tau), used.betas.index(beta)
    if not used.eligible[place]:
        return None
    flat = {name: np.where(sweep.eligible, sweep.gap, -np.inf).ravel() for name, sweep in sweeps.items()}
    best = max(flat, key=lambda name: flat[name].max())
    i, j = np.unravel_index(int(flat[best].argmax()), sweeps[best].gap.shape)
    resamples = len(used.resampled)
    judged = [np.where(sweep.eligible, sweep.resampled, -np.inf).reshape(resamples, -1) for sweep in sweeps.values()]
    # A resample has no gap where nothing of it is kept, or nothing dropped
    choices = np.concatenate(judged, axis=1)
    choices[np.isnan(choices)] = -np.inf
    winners = choices.argmax(axis=1)
    left_out = np.concatenate([sweep.held_out.reshape(resamples, -1) for sweep in sweeps.values()], axis=1)
    gains = left_out[np.arange(resamples), winners] - used.held_out[:, place[0], place[1]]
    gains = gains[~np.isnan(gains) & (choices.max(axis=1) > -np.inf)]
    gain = Estimate(float("nan"), float("nan"), float("nan"))
    if len(gains):
        gain = Estimate(float(gains.mean()), *map(float, np.quantile(gains, [0.025, 0.975])))
    return Challenge(best, sweeps[best].taus[i], sweeps[best].betas[j], gain)


def _gap(sums: np.ndarray) -> np.ndarray:
    """Mean gain of kept minus mean gain of dropped segments, from sums and counts in the last dimension."""
    kept_gain, kept, dropped_gain, dropped = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((kept > 0) & (dropped > 0), kept_gain / kept - dropped_gain / dropped, np.nan)


def _quantiles(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 % over the first dimension, of the resamples in which there is a value."""
    ordered = np.sort(resampled, axis=0)  # nan last
    known = np.sum(~np.isnan(resampled), axis=0)
    take = [np.clip((share * known).astype(int), 0, np.maximum(known - 1, 0)) for share in (0.025, 0.975)]
    low, high = (np.take_along_axis(ordered, index[None], axis=0)[0] for index in take)
    return low, high


def _overlap_with_neighbours(kept: np.ndarray) -> np.ndarray:
    """Mean Jaccard index of each pair's selection with its neighbours', from (taus, betas, segments)."""
    total, count = np.zeros(kept.shape[:2]), np.zeros(kept.shape[:2])
    for axis in (0, 1):
        a, b = (np.take(kept, range(i, kept.shape[axis] - 1 + i), axis=axis) for i in (0, 1))
        both, either = (a & b).sum(axis=-1), (a | b).sum(axis=-1)
        index = np.where(either > 0, both / np.maximum(either, 1), 1.0)
        for i in (0, 1):
            place = tuple(slice(i, kept.shape[axis] - 1 + i) if d == axis else slice(None) for d in (0, 1))
            total[place] += index
            count[place] += 1
    return total / np.maximum(count, 1)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """
    Spearman's rank correlation; equal values share their mean rank.

    Args:
        first (`np.ndarray`):
            Values, shape (n,).
        second (`np.ndarray`):
            Values, shape (n,).

    Returns:
        `float`: In [-1, 1]; `nan` if either is constant.
    """
    ranks = []
    for values in (first, second):
        _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[inverse])
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


@dataclass(frozen=True)
class Agreement:
    """
    How much two stores agree on the traces that both hold.

    Args:
        traces (`int`):
            Number of shared traces.
        strength ([`Estimate`]):
            Mean rank correlation of the segments' strengths within a trace.
        direction ([`Estimate`]):
            Mean rank correlation of the signed sums.
        selection ([`Estimate`]):
            Mean Jaccard index of the selections, always-trained segments left out.
        by_chance (`float`):
            The Jaccard index that selections of the same sizes, drawn at random, would have.
    """

    traces: int
    strength: Estimate
    direction: Estimate
    selection: Estimate
    by_chance: float


def compare_stores(first: Mapping, second: Mapping, config: SelectionConfig) -> Agreement:
    """
    Compare the scores of two stores.

    Args:
        first, second (`Mapping`):
            Attribution stores: from a trace's key to its stored row.
        config ([`~trl_segment.SelectionConfig`]):
            Thresholds of both selections.

    Returns:
        [`Agreement`]: Means over traces with 95 % bootstrap intervals.

    Raises:
        `ValueError`: If no attributed trace is in both, cut into the same segments.
    """
    from .metrics import bootstrap

    strength, direction, selection, chance = [], [], [], []
    shared = 0
    for key, a in first.items():
        b = second.get(key)
        if b is None or a.problem is not None or b.problem is not None or len(a.num_tokens) != len(b.num_tokens):
            continue
        scores = (a.segment_scores, b.segment_scores)
        shared += 1
        strength.append(rank_correlation(*(of.strength for of in scores)))
        if all(of.directed for of in scores):
            direction.append(rank_correlation(*(of.sum_signed for of in scores)))
        kept = [select(of, config, key).kept for of in scores]
        free = ~always_trained(len(scores[0]), config)
        selection.append(jaccard(kept[0] & free, kept[1] & free))
        chance.append(_jaccard_by_chance((kept[0] & free).sum(), (kept[1] & free).sum(), free.sum()))
    if not shared:
        raise ValueError(
            "The stores share no trace. A trace's key holds its text, answer and segments, so both must be made from "
            "the same rows with the same segmenter."
        )

    def estimate(values):
        known = np.array([value for value in values if not np.isnan(value)])
        return bootstrap([known]) if len(known) else Estimate(np.nan, np.nan, np.nan)

    return Agreement(shared, estimate(strength), estimate(direction), estimate(selection), float(np.mean(chance)))


def _jaccard_by_chance(first: int, second: int, total: int) -> float:
    """Expected Jaccard index of two random subsets of `total` segments, with the expected size of what they share."""
    if not first + second:
        return 1.0
    both = first * second / total
    return both / (first + second - both)
