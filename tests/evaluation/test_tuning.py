"""The sweep over thresholds, against hand computation and planted optima."""

from dataclasses import replace

import numpy as np
import pytest

from trl_segment.evaluation.tuning import (
    ScoredTrace,
    challenge,
    compare_stores,
    jaccard,
    rank_correlation,
    sweep_thresholds,
)
from trl_segment.selection import SegmentScores, SelectionConfig, select
from trl_segment.store import StoredAttribution


FREE = SelectionConfig(consistency_scale="absolute", keep_first=0, keep_last=0)


def planted(count, segments=12, seed=0, noise=0.3):
    """Traces in which the stronger third of the segments brings the gain, unless its direction is above 0.5."""
    generator = np.random.default_rng(seed)
    traces = []
    for _ in range(count):
        strength = generator.permutation(np.r_[np.full(segments // 3, 4.0), np.full(segments - segments // 3, 1.0)])
        consistency = generator.uniform(0, 1, segments)
        num_tokens = generator.integers(10, 60, segments)
        sum_abs = strength * np.sqrt(num_tokens)
        useful = (strength > 2) & (consistency <= 0.5)
        gains = useful * 1.0 + generator.normal(0, noise, segments)
        traces.append(ScoredTrace(SegmentScores(num_tokens, sum_abs, consistency * sum_abs), gains))
    return traces


def test_gap_by_hand():
    scores = SegmentScores(
        num_tokens=np.array([4, 4, 4, 4, 4]),
        sum_abs=np.array([8.0, 6.0, 4.0, 2.0, 40.0]),
        sum_signed=np.array([0.0, -6.0, 0.0, 0.0, 40.0]),
    )
    trace = ScoredTrace(scores, gains=np.array([1.0, 0.5, 0.25, -0.125, 7.0]))
    config = SelectionConfig(consistency_scale="absolute", keep_first=1, keep_last=1)
    sweep = sweep_thresholds([trace], config, taus=[0.8, 1.0], betas=[0.5, 1.0], resamples=10)
    # Strengths 4, 3, 2, 1, 20 of 30. tau .8 keeps the last and the first, which are always trained and do not count:
    # no other is kept. tau 1 keeps all, but the second and the last are too consistent for beta .5
    assert np.isnan(sweep.gap[0]).all() and np.isnan(sweep.gap[1, 1])
    assert sweep.gap[1, 0] == pytest.approx((0.25 - 0.125) / 2 - 0.5)
    assert sweep.best == (1, 0)
    assert sweep.kept_segments == pytest.approx(np.array([[2, 2], [4, 5]]) / 5)
    assert sweep.kept_tokens == pytest.approx(np.array([[2, 2], [4, 5]]) / 5)
    # One trace says nothing about others: every resample is the same
    assert sweep.low[1, 0] == sweep.high[1, 0] == sweep.gap[1, 0]
    assert np.isnan(sweep.best_held_out.value)


def test_the_planted_thresholds_are_found():
    traces = planted(60)
    sweep = sweep_thresholds(traces, FREE, taus=(0.3, 0.66, 0.9, 1.0), betas=(0.25, 0.5, 0.75, 1.0), resamples=300)
    assert (sweep.taus[sweep.best[0]], sweep.betas[sweep.best[1]]) == (0.66, 0.5)
    assert sweep.chosen[sweep.best] > 0.9
    assert sweep.chosen.sum() == pytest.approx(1)
    assert sweep.equal[sweep.best] and sweep.equal.sum() < 4
    # Judged on other traces: the planted gain of 1 against the noise around 0
    assert sweep.best_held_out.low < sweep.gap[sweep.best] < sweep.best_held_out.high
    assert sweep.best_held_out.value == pytest.approx(1.0, abs=0.1)


def test_where_there_is_nothing_to_find_it_says_so():
    """Gains without relation to the scores: the best of many gaps is above 0, judged on other traces it is not."""
    generator = np.random.default_rng(1)
    traces = [replace(trace, gains=generator.normal(0, 1, 12)) for trace in planted(40)]
    sweep = sweep_thresholds(traces, FREE, resamples=400)
    assert sweep.gap[sweep.best] > 0
    assert sweep.best_held_out.value < sweep.gap[sweep.best] / 2
    assert sweep.best_held_out.low < 0 < sweep.best_held_out.high
    assert sweep.equal.sum() > 5


def test_a_pair_is_clearly_better_where_one_was_planted():
    traces = planted(60)
    taus, betas = (0.3, 0.66, 1.0), (0.25, 0.5, 1.0)
    sweeps = {
        scale: sweep_thresholds(traces, replace(FREE, consistency_scale=scale), taus, betas, resamples=300)
        for scale in ("absolute", "rank")
    }
    found = challenge(sweeps, "absolute", 0.66, 1.0)
    # Half of the six segments that this pair keeps in vain: 2 of 4 strong ones are too consistent
    assert (found.title, found.tau, found.beta, found.clear) == ("absolute", 0.66, 0.5, True)
    assert found.gain.value == pytest.approx(0.5, abs=0.15)
    # The planted pair itself is beaten by none, and one that keeps everything cannot be judged
    found = challenge(sweeps, "absolute", 0.66, 0.5)
    assert not found.clear and found.gain.value == pytest.approx(0, abs=0.02)
    assert challenge(sweeps, "absolute", 1.0, 1.0) is None
    assert challenge(sweeps, "absolute", 0.7, 0.5) is None and challenge(sweeps, "chance", 0.66, 0.5) is None


def test_where_gains_are_noise_no_pair_is_clearly_better():
    alarms = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        traces = [replace(trace, gains=generator.normal(0, 1, 12)) for trace in planted(30, seed=seed)]
        sweep = sweep_thresholds(traces, FREE, (0.3, 0.6, 0.9), (0.3, 0.6, 0.9), resamples=200)
        alarms += challenge({"absolute": sweep}, "absolute", 0.6, 0.6).clear
    # One in forty by the intervals
    assert alarms <= 2


def test_a_challenge_is_judged_on_traces_that_it_was_not_chosen_on():
    traces, taus, betas = planted(7, noise=2.0), (0.4, 0.8), (0.4, 0.8)
    sweep = sweep_thresholds(traces, FREE, taus, betas, resamples=40, seed=3)
    counts = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), size=40)

    def gap(pair, times):
        kept, dropped = [], []
        for trace, count in zip(traces, times, strict=True):
            chosen = select(trace.scores, replace(FREE, tau=pair[0], beta=pair[1])).kept
            kept += list(trace.gains[chosen]) * count
            dropped += list(trace.gains[~chosen]) * count
        return np.mean(kept) - np.mean(dropped)

    pairs = [(tau, beta) for tau in taus for beta in betas]
    gains = []
    for times in counts:
        best = max(pairs, key=lambda pair: gap(pair, times))
        left_out = (times == 0).astype(int)
        gains.append(gap(best, left_out) - gap((0.8, 0.8), left_out))
    found = challenge({"absolute": sweep}, "absolute", 0.8, 0.8)
    assert found.gain.value == pytest.approx(np.mean(gains))
    assert (found.gain.low, found.gain.high) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])))
    alone = sweep_thresholds(traces[:1], FREE, taus, betas, resamples=5)
    alone = challenge({"absolute": alone}, "absolute", 0.8, 0.8)
    assert alone is None or (np.isnan(alone.gain.value) and not alone.clear)


def test_pairs_that_keep_or_drop_next_to_nothing_are_never_the_best():
    traces = planted(20)
    # One segment in 240 is dropped at beta .95, and it has a huge loss
    scores = [replace(t.scores, sum_signed=np.minimum(t.scores.sum_signed, 0.9 * t.scores.sum_abs)) for t in traces]
    traces = [replace(t, scores=of) for t, of in zip(traces, scores, strict=True)]
    gains = traces[0].gains.copy()
    gains[3] = -1000.0
    signed = scores[0].sum_signed.copy()
    signed[3] = scores[0].sum_abs[3]
    traces[0] = ScoredTrace(replace(scores[0], sum_signed=signed), gains)
    sweep = sweep_thresholds(traces, FREE, taus=(0.67, 1.0), betas=(0.5, 0.95, 1.0), resamples=50)
    assert sweep.gap[1, 1] > 900 and not sweep.eligible[1, 1]
    assert sweep.best is not None and sweep.best != (1, 1)
    assert sweep.chosen[1, 1] == 0


def test_overlap_is_the_mean_jaccard_index_with_the_neighbours():
    traces = planted(5)
    taus, betas = (0.5, 0.7, 0.9), (0.4, 0.8)
    sweep = sweep_thresholds(traces, FREE, taus, betas, resamples=5)

    def kept(trace, i, j):
        config = replace(FREE, tau=taus[i], beta=betas[j])
        return select(trace.scores, config).kept

    by_hand = np.mean(
        [np.mean([jaccard(kept(t, 1, 0), kept(t, *other)) for other in ((0, 0), (2, 0), (1, 1))]) for t in traces]
    )
    assert sweep.overlap[1, 0] == pytest.approx(by_hand)


def test_nothing_to_sweep():
    with pytest.raises(ValueError, match="no trace to sweep over"):
        sweep_thresholds([], FREE)
    # Two segments, all of them always trained
    scores = SegmentScores(np.array([5, 5]), np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    trace = ScoredTrace(scores, np.array([0.1, 0.2]))
    sweep = sweep_thresholds([trace], SelectionConfig(consistency_scale="absolute"), resamples=5)
    assert sweep.best is None and np.isnan(sweep.gap).all() and not sweep.equal.any()


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, 40), generator.normal(size=40)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4)))


def stored(key, strengths, problem=None):
    tokens = [16] * len(strengths)
    return StoredAttribution(
        key=key, name=key, problem=problem, num_tokens=tokens, sum_abs=[4 * s for s in strengths],
        sum_signed=list(strengths),
    )  # fmt: skip


def test_agreement_of_stores():
    config = replace(FREE, tau=0.6)
    first = {k: stored(k, s) for k, s in (("a", [4, 3, 2, 1]), ("b", [1, 2, 3, 4]), ("c", [1, 2]))}
    same = compare_stores(first, first, config)
    assert (same.traces, same.strength.value, same.selection.value) == (3, 1.0, 1.0)
    second = {k: stored(k, s) for k, s in (("a", [4, 3, 2, 1]), ("b", [4, 3, 2, 1]), ("d", [1, 2]))}
    other = compare_stores(first, second, config)
    assert (other.traces, other.strength.value, other.direction.value) == (2, 0.0, 0.0)
    # Kept: the two strongest of four, the same two in "a", the other two in "b"
    assert other.selection.value == 0.5
    assert other.by_chance == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="share no trace"):
        compare_stores(first, {"x": stored("x", [1, 2])}, config)
    with pytest.raises(ValueError, match="share no trace"):
        compare_stores(first, {"a": stored("a", [], problem="no answer")}, config)


def stored_whole(key, scores):
    return StoredAttribution(key=key, name=key, num_tokens=[16] * len(scores), scores=list(map(float, scores)))


def test_scores_of_whole_segments_are_compared_by_strength_alone():
    config = replace(FREE, tau=0.6, beta=0.0)
    pairs = (("a", [4, 3, 2, 1]), ("b", [1, 2, 3, 4]))
    whole = {key: stored_whole(key, scores) for key, scores in pairs}
    tokens = {key: stored(key, scores) for key, scores in pairs}
    same = compare_stores(whole, whole, config)
    assert (same.traces, same.strength.value, same.selection.value) == (2, 1.0, 1.0)
    assert np.isnan([same.direction.value, same.direction.low, same.direction.high]).all()
    # One store alone has a direction, so there is nothing to compare it with
    other = compare_stores(whole, tokens, replace(config, beta=1.0))
    assert (other.strength.value, other.selection.value) == (1.0, 1.0) and np.isnan(other.direction.value)


def test_a_sweep_over_scores_of_whole_segments_depends_on_tau_alone():
    traces = [ScoredTrace(SegmentScores(t.scores.num_tokens, scores=t.scores.strength), t.gains) for t in planted(20)]
    sweep = sweep_thresholds(traces, FREE, taus=(0.3, 0.66), betas=(0.1, 0.5, 1.0), resamples=20)
    assert (sweep.kept_segments == sweep.kept_segments[:, :1]).all()
    assert (sweep.gap == sweep.gap[:, :1]).all()
    directed = sweep_thresholds(planted(20), FREE, taus=(0.3, 0.66), betas=(1.0,), resamples=20)
    assert sweep.gap[:, :1] == pytest.approx(directed.gap)
