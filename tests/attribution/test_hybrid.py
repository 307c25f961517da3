"""The hybrid rule against sums by hand, integrals in closed form, and recorded integrands of real models."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from trl_segment.attribution.quadrature import (
    RULES,
    Evaluation,
    SampledPath,
    assess,
    check_rule,
    hybrid,
    jaccard,
)
from trl_segment.attribution.quadrature.hybrid import ALIKE, _next_nodes


RECORDED = Path(__file__).with_name("recorded_integrands.npz")


def integrate(value, integrand, evaluations=32, segments=(), **options):
    """Run the rule on functions of alpha. Returns its integral and the nodes, in the order they were asked for."""
    steps = hybrid(evaluations, (value(0.0), value(1.0)), segments, **options)
    asked, rounds = next(steps), []
    while True:
        rounds.append(asked)
        try:
            asked = steps.send([Evaluation(value(x), integrand(x)) for x in asked])
        except StopIteration as stop:
            return stop.value, rounds


def path_of(nodes, values, integrands, ends):
    evaluations = [Evaluation(v, np.array(g, dtype=float)) for v, g in zip(values, integrands, strict=True)]
    return SampledPath(ends, nodes, evaluations)


def sigmoid_path(place, width, pattern):
    """F rises by `sum(pattern)` in one step; the integrand is its derivative, shared out as `pattern`."""

    def value(x):
        return float(pattern.sum() / (1 + np.exp(-(x - place) / width)))

    def integrand(x):
        s = 1 / (1 + np.exp(-(x - place) / width))
        return pattern * s * (1 - s) / width

    return value, integrand


# ---------------------------------------------------------------- sums by hand


def test_the_plain_sum_of_uniform_midpoints_is_their_mean():
    nodes = (np.arange(8) + 0.5) / 8
    integrands = np.random.default_rng(0).normal(size=(8, 5))
    path = path_of(nodes, np.zeros(8), integrands, (0.0, 1.0))
    np.testing.assert_allclose(path.plain(), integrands.mean(axis=0), rtol=1e-12)


def test_panels_by_hand():
    # Panels [0, .2], [.2, .6], [.6, 1] of widths .2, .4, .4; two tokens
    path = path_of([0.2, 0.6], [1.0, 1.1], [[3.0, 1.0], [-1.0, 3.0]], (0.0, 4.0))
    # Means [3, 1], [1, 2], [-1, 3]
    np.testing.assert_allclose(path.plain(), [0.6 + 0.4 - 0.4, 0.2 + 0.8 + 1.2], rtol=1e-12)
    np.testing.assert_allclose(path.masses, [0.8, 1.2, 1.6], rtol=1e-12)
    np.testing.assert_allclose(path.changes, [1.0, 0.1, 2.9], rtol=1e-12)
    # The ends of the middle panel differ by [-4, 2], half of it in L1: .4 * 6 / 2 = 1.2, as much as its mass
    np.testing.assert_allclose(path.differences, [0.0, 1.2, 0.0], rtol=1e-12)
    # They are at right angles: the panel is bounded, its L1 norm 1.2 becomes the change .1. The outer panels are
    # judged with it, but their masses are under their changes of F already
    np.testing.assert_allclose(path.cosines, [1.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(path.bounded(ALIKE), [0.6 + 0.4 / 12 - 0.4, 0.2 + 0.8 / 12 + 1.2], rtol=1e-12)


def test_panels_whose_ends_are_alike_are_never_bounded():
    # Token attributions that cancel: L1 is far above the change of F, as on a smooth path it may be
    path = path_of([0.25, 0.5, 0.75], [0.0, 0.0, 0.0], [[5.0, -5.0]] * 3, (0.0, 0.0))
    np.testing.assert_array_equal(path.bounded(ALIKE), path.plain())


def test_reliability_by_hand():
    # Four nodes, one token: the halves are {.125, .625} and {.375, .875}
    integrands = [[1.0], [1.0], [2.0], [2.0]]
    path = path_of([0.125, 0.375, 0.625, 0.875], [0.0, -1.0, 1.0, 1.5], integrands, (0.0, 2.0))
    reliability = assess(path, [(0, 1)], ALIKE)
    assert reliability.gap == pytest.approx(abs(1.5 - 2) / 2)
    assert reliability.l1 == pytest.approx(1.5 / 2)
    assert reliability.variation == pytest.approx((0 + 1 + 2 + 0.5 + 0.5) / 2)
    assert reliability.halves_correlation == 1
    assert reliability.halves_agreement == 1


def test_the_correlation_of_the_halves_is_corrected_for_their_length():
    # Both halves have constant integrands, at right angles but for a common part
    odd, even = np.array([1.0, 1.0]), np.array([1.0, 0.0])
    path = path_of([0.125, 0.375, 0.625, 0.875], [0.25, 0.5, 0.75, 1.0], [odd, even, odd, even], (0.0, 1.0))
    r = 1 / np.sqrt(2)
    assert assess(path, [], ALIKE).halves_correlation == pytest.approx(2 * r / (1 + r))
    assert np.isnan(assess(path, [], ALIKE).halves_agreement)
    # Nothing is corrected upwards that disagrees
    path = path_of([0.125, 0.375, 0.625, 0.875], [0.25, 0.5, 0.75, 1.0], [odd, -odd, odd, -odd], (0.0, 1.0))
    assert assess(path, [], ALIKE).halves_correlation == pytest.approx(-1)


def test_the_next_nodes_by_hand():
    # F moves in the last panel only, gradients are equal: shares .0, .0, 1 plus widths .25, .5, .25
    path = path_of([0.25, 0.75], [0.0, 0.0], [[1.0], [1.0]], (0.0, 1.0))
    # Halving 1.25 leaves .625 on both sides, still above .5: of equal ones the later comes first
    assert _next_nodes(path, 4, None) == [0.875, 0.9375, 0.8125, 0.5]


def test_jaccard():
    kept = np.array([True, True, False, False])
    assert jaccard(kept, np.array([True, False, True, False])) == pytest.approx(1 / 3)
    assert jaccard(kept & False, kept & False) == 1


# ---------------------------------------------------------------- integrals in closed form


@pytest.mark.parametrize("cap", [8, 9, 12, 31, 32, 64])
def test_nodes_are_nested_and_never_more_than_the_cap(cap):
    rng = np.random.default_rng(cap)
    result, rounds = integrate(lambda x: float(x), lambda x: rng.normal(size=30), cap)
    nodes = list(itertools.chain(*rounds))
    assert rounds[0] == [(i + 0.5) / 8 for i in range(8)]
    assert all(1 <= len(asked) <= 4 for asked in rounds[1:])
    assert len(nodes) == result.evaluations == len(set(nodes)) == cap
    assert all(0 < x < 1 for x in nodes)
    assert result.stopped_by == "not settled"


def test_a_smooth_integrand_settles_early_and_is_right():
    rates = np.linspace(-1.5, 2, 40)  # token t contributes exp(rate * x)
    exact = np.expm1(rates) / rates
    result, _ = integrate(
        lambda x: float((np.expm1(rates * x) / rates).sum()), lambda x: np.exp(rates * x), segments=[(0, 20), (20, 40)]
    )
    assert (result.stopped_by, result.evaluations) == ("settled", 8)
    np.testing.assert_allclose(result.attributions, exact, rtol=3e-3)
    assert result.reliability.gap < 2e-3
    assert result.reliability.warnings == []
    assert result.defect == pytest.approx(abs(result.attributions.sum() - exact.sum()))


def test_tokens_that_cancel_do_not_stand_in_the_way():
    rates = np.linspace(-1, 1, 40)
    signs = np.where(np.arange(40) % 2, 1.0, -0.5)
    exact = signs * np.expm1(rates) / rates
    result, _ = integrate(
        lambda x: float((signs * np.expm1(rates * x) / rates).sum()), lambda x: signs * np.exp(rates * x)
    )
    assert result.stopped_by == "settled"
    assert result.reliability.l1 == pytest.approx(np.abs(exact).sum() / abs(exact.sum()), rel=0.02)
    np.testing.assert_allclose(result.attributions, exact, rtol=0.01)


@pytest.mark.parametrize("place", [0.31, 0.5, 0.613, 0.9])
def test_nodes_go_to_a_step(place):
    pattern = np.random.default_rng(1).normal(0.3, 1, size=60)
    value, integrand = sigmoid_path(place, 0.004, pattern)
    result, rounds = integrate(value, integrand)
    exact = pattern * (value(1.0) - value(0.0)) / pattern.sum()
    assert result.stopped_by == "settled"
    # As many midpoints as the cap allows have one node there, or none
    midpoints = np.mean([integrand((i + 0.5) / 32) for i in range(32)], axis=0)
    error, theirs = (np.abs(a - exact).sum() / np.abs(exact).sum() for a in (result.attributions, midpoints))
    assert error < 0.15 < theirs
    spent, rounds = integrate(value, integrand, settle=False)
    nodes = np.array(list(itertools.chain(*rounds)))
    assert (np.abs(nodes - place) < 0.02).sum() >= 6
    np.testing.assert_allclose(spent.attributions, exact, rtol=0.03)


def noisy_step(seed, size, tokens=400):
    """A step in the middle, and before it white noise on every gradient, `size` times the mean attribution."""
    pattern = np.random.default_rng(100 + seed).normal(0.1, 1, size=tokens)
    value, clean = sigmoid_path(0.5, 0.02, pattern)
    noise = np.random.default_rng(seed)

    def integrand(x):
        return clean(x) + (x < 0.6) * noise.normal(0, size * np.abs(pattern).mean(), size=tokens)

    return pattern, value, integrand


@pytest.mark.parametrize("seed", range(5))
def test_noise_beside_a_step_is_bounded(seed):
    # As on long traces in half precision: one step holds the mass, and each node has noise of several times the whole
    pattern, value, integrand = noisy_step(seed, 6.0)
    nodes, seen = [], []

    def remember(x):
        nodes.append(x)
        seen.append(integrand(x))
        return seen[-1]

    result, _ = integrate(value, remember, settle=False)
    order = np.argsort(nodes)
    edges = np.concatenate([[0.0], np.array(nodes)[order], [1.0]])
    ends = np.stack([seen[order[0]], *(seen[i] for i in order), seen[order[-1]]])
    plain = np.diff(edges) @ ((ends[1:] + ends[:-1]) / 2)
    midpoints = np.mean([integrand((i + 0.5) / 32) for i in range(32)], axis=0)
    ours, unbounded, uniform = (np.corrcoef(a, pattern)[0, 1] for a in (result.attributions, plain, midpoints))
    assert ours > 0.97
    # What is missing to 1 is the share of the noise
    assert 1 - ours < 0.5 * (1 - unbounded)
    assert 1 - ours < 0.2 * (1 - uniform)


@pytest.mark.parametrize("seed", range(10))
def test_pure_noise_never_settles(seed):
    noise = np.random.default_rng(seed)
    segments = [(i, i + 50) for i in range(0, 500, 50)]
    for change in (0.1, 1.0, 30.0):
        result, _ = integrate(lambda x, c=change: c * x, lambda x: noise.normal(size=500), 64, segments)
        assert result.stopped_by == "not settled"
        assert result.evaluations == 64
        assert result.reliability.warnings


def test_a_rough_path_does_not_settle():
    # F swings ten times its change, faster than 32 nodes resolve; gradients are exact
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, size=200)

    def value(x):
        return float(x + np.sin(300 * x + phases).sum() / 3 - np.sin(phases).sum() / 3)

    result, _ = integrate(value, lambda x: 1 / 200 + 100 * np.cos(300 * x + phases))
    assert result.stopped_by == "not settled"
    assert result.reliability.variation > 2.5


def test_attributions_scale_with_f():
    value, integrand = sigmoid_path(0.4, 0.05, np.random.default_rng(3).normal(size=30))
    segments = [(0, 10), (10, 30)]
    one, rounds = integrate(value, integrand, segments=segments)
    many, scaled = integrate(lambda x: 1024 * value(x), lambda x: 1024 * integrand(x), segments=segments)
    assert rounds == scaled
    np.testing.assert_allclose(many.attributions, 1024 * one.attributions, rtol=1e-12)
    assert many.reliability == one.reliability


def test_the_order_of_tokens_does_not_matter():
    value, integrand = sigmoid_path(0.4, 0.05, np.random.default_rng(3).normal(size=30))
    order = np.random.default_rng(4).permutation(30)
    one, _ = integrate(value, integrand)
    other, _ = integrate(value, lambda x: integrand(x)[order])
    np.testing.assert_allclose(other.attributions, one.attributions[order], rtol=1e-9)


def test_all_evaluations_are_spent_on_request():
    value, integrand = sigmoid_path(0.5, 0.2, np.ones(10))
    result, _ = integrate(value, integrand, 32, settle=False)
    assert (result.stopped_by, result.evaluations) == ("settled", 32)


# ---------------------------------------------------------------- edges


def test_a_path_on_which_nothing_happens_settles_at_zero():
    result, _ = integrate(lambda x: -3.0, lambda x: np.zeros(7), segments=[(0, 3), (3, 7)])
    assert (result.stopped_by, result.evaluations, result.defect) == ("settled", 8, 0.0)
    np.testing.assert_array_equal(result.attributions, np.zeros(7))
    assert result.reliability.gap == result.reliability.l1 == 0


def test_no_change_of_f_with_gradients_is_not_settled():
    result, _ = integrate(lambda x: 0.0, lambda x: np.array([1.0, -0.5]))
    assert result.stopped_by == "not settled"
    assert result.reliability.gap == result.reliability.l1 == float("inf")
    assert np.isfinite(result.attributions).all()


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("segments", [[], [(0, 1)]])
def test_few_tokens_and_segments(tokens, segments):
    result, _ = integrate(lambda x: tokens * x, lambda x: np.ones(tokens), segments=segments)
    assert (result.stopped_by, result.evaluations) == ("settled", 8)
    np.testing.assert_allclose(result.attributions, np.ones(tokens), rtol=1e-12)


def test_a_segment_without_tokens_is_never_kept():
    result, _ = integrate(lambda x: 4 * x, lambda x: np.ones(4), segments=[(0, 2), (2, 2), (2, 4)])
    assert result.stopped_by == "settled"
    assert result.reliability.halves_agreement == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["gradient", "value", "end"])
def test_what_is_not_finite_ends_it_at_once(bad, where):
    def value(x):
        spoiled = (where == "value" and 0.3 < x < 0.4) or (where == "end" and x == 0)
        return bad if spoiled else x

    def integrand(x):
        return np.array([1.0, bad if where == "gradient" and 0.3 < x < 0.4 else 1.0])

    result, rounds = integrate(value, integrand)
    assert (result.stopped_by, result.evaluations, len(rounds)) == ("not finite", 8, 1)
    assert not result.reliability.settled
    assert np.isnan(result.attributions).all()
    assert np.isnan(result.reliability.gap)


def test_too_few_evaluations_are_refused():
    with pytest.raises(ValueError, match="needs at least 8 gradient evaluations per trace, but 7"):
        check_rule("hybrid", 7)
    assert RULES["hybrid"].default == 32


def test_allowed_nodes_are_used_up_and_no_others():
    allowed = (np.arange(20) + 0.5) / 20
    rng = np.random.default_rng(0)
    result, rounds = integrate(lambda x: x, lambda x: rng.normal(size=50), 32, allowed=allowed)
    assert sorted(itertools.chain(*rounds)) == pytest.approx(allowed.tolist())
    assert (result.evaluations, result.stopped_by) == (20, "not settled")


# ---------------------------------------------------------------- recorded integrands


def recorded(key):
    data = np.load(RECORDED)
    nodes, integrands = data[f"{key}_xs"], data[f"{key}_G"].astype(np.float64)
    # Every fifth token of long traces was kept; the sum of the others is one more, which belongs to no segment
    integrands = np.column_stack([integrands, data[f"{key}_rest"]])
    values = data[f"{key}_F"].astype(np.float64)
    segments = [(int(a), int(b)) for a, b in data[f"{key}_seg"]]
    steps = hybrid(32, (float(data[f"{key}_f"][1]), float(data[f"{key}_f"][0])), segments, allowed=nodes)
    asked = next(steps)
    while True:
        try:
            places = [int(np.flatnonzero(nodes == x)[0]) for x in asked]
            asked = steps.send([Evaluation(float(values[i]), integrands[i]) for i in places])
        except StopIteration as stop:
            reference = data[f"{key}_reference"].astype(np.float64) if f"{key}_reference" in data else None
            return stop.value, reference, segments, (nodes, integrands)


def strengths(attributions, segments):
    return np.array([np.abs(attributions[a:b]).sum() / np.sqrt(b - a) for a, b in segments])


def ranks(values):
    return np.argsort(np.argsort(values))


@pytest.mark.parametrize("key", ["qwen_reasoning", "smollm2_reasoning", "gemma3_reasoning"])
def test_real_integrands_settle_near_their_reference(key):
    result, reference, segments, (nodes, integrands) = recorded(key)
    tokens = len(reference)
    assert result.stopped_by == "settled"
    assert result.evaluations <= 24
    assert np.corrcoef(result.attributions[:tokens], reference)[0, 1] > 0.95
    ours, theirs = strengths(result.attributions, segments), strengths(reference, segments)
    assert np.corrcoef(ranks(ours), ranks(theirs))[0, 1] > 0.9
    # At least as near as as many midpoints
    count = result.evaluations
    places = [np.abs(nodes - (i + 0.5) / count).argmin() for i in range(count)]
    midpoints = integrands[places].mean(axis=0)[:tokens]
    assert np.abs(result.attributions[:tokens] - reference).sum() < np.abs(midpoints - reference).sum()


def test_a_real_path_without_a_reliable_integral_does_not_settle():
    result, *_ = recorded("qwen_all")
    assert (result.stopped_by, result.evaluations) == ("not settled", 32)
    assert len(result.reliability.warnings) >= 2


def test_recorded_integrands_say_where_they_come_from():
    data = np.load(RECORDED)
    provenance = json.loads(str(data["provenance"]))
    assert {name.rsplit("_", 1)[0] for name in data.files if name.endswith("_xs")} == set(provenance)
    assert RECORDED.stat().st_size < 300_000
