from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.selection import (
    SelectionConfig,
    attribution_strength,
    consistency_above_chance,
    direction_consistency,
    select_segments,
    strongest_prefix,
    unit_mask,
)


def paper(**kwargs):
    """The paper's thresholds: consistency on its absolute scale."""
    return SelectionConfig(**{"consistency_scale": "absolute", **kwargs})


def free(**kwargs):
    """Thresholds without always-trained segments, unless asked for."""
    return paper(**{"keep_first": 0, "keep_last": 0, **kwargs})


def kept_by(num_tokens, sum_abs, sum_signed, config):
    return np.flatnonzero(select_segments(num_tokens, sum_abs, sum_signed, config)).tolist()


def test_strength_by_hand():
    # 6 / sqrt(4), 6 / sqrt(9), 5 / sqrt(1)
    np.testing.assert_allclose(attribution_strength([6.0, 6.0, 5.0], [4, 9, 1]), [3.0, 2.0, 5.0], rtol=1e-15)


def test_segment_without_tokens_has_no_strength():
    assert attribution_strength([0.0, 2.0], [0, 4]).tolist() == [0.0, 1.0]


def test_consistency_by_hand():
    # tokens [3, -1], [-2, -2], [1, -1], [0.5]
    signed, absolute = [2.0, -4.0, 0.0, 0.5], [4.0, 4.0, 2.0, 0.5]
    assert direction_consistency(signed, absolute).tolist() == [0.5, 1.0, 0.0, 1.0]


def test_consistency_of_a_segment_without_attribution_is_zero():
    assert direction_consistency([0.0, 1.0], [0.0, 1.0]).tolist() == [0.0, 1.0]


def test_consistency_never_exceeds_one():
    """Summed in different orders, equal signs can give |sum| a hair above the sum of absolutes."""
    assert direction_consistency([np.nextafter(0.3, 1)], [0.3]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("strength", "tau", "kept"),
    [
        ([1, 5, 2, 2], 0.5, [1]),  # 5 of 10
        ([1, 5, 2, 2], 0.51, [1, 2]),  # 7 of 10; of the two 2s the earlier
        ([1, 5, 2, 2], 0.7, [1, 2]),
        ([1, 5, 2, 2], 0.71, [1, 2, 3]),
        ([1, 5, 2, 2], 0.95, [0, 1, 2, 3]),
        ([1, 1, 1, 1], 0.5, [0, 1]),
        ([1] * 10, 0.7, [0, 1, 2, 3, 4, 5, 6]),
        ([0.1] * 10, 0.7, [0, 1, 2, 3, 4, 5, 6]),
        ([0.1] * 10, 0.3, [0, 1, 2]),
        ([3, 0, 1, 0], 1.0, [0, 2]),
        ([3, 0, 1, 0], 0.75, [0]),
        ([2], 0.001, [0]),
        ([0, 0], 0.7, []),
        ([], 0.7, []),
    ],
)
def test_prefix_by_hand(strength, tau, kept):
    assert np.flatnonzero(strongest_prefix(np.array(strength, dtype=float), tau)).tolist() == kept


_STRENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=8)
_TAUS = st.integers(1, 20).map(lambda n: Fraction(n, 20))


@given(_STRENGTHS, _TAUS)
def test_prefix_is_the_smallest_set_that_reaches_tau(strength, tau):
    """Brute force over subsets, in exact fractions: no smaller one reaches tau, none of the same size holds more."""
    kept = np.flatnonzero(strongest_prefix(np.array(strength, dtype=float), float(tau))).tolist()
    needed = tau * sum(strength)
    assert sum(strength[i] for i in kept) >= needed
    for size in range(len(kept)):
        assert all(sum(subset) < needed for subset in combinations(strength, size))
    assert sum(strength[i] for i in kept) == max(sum(subset) for subset in combinations(strength, len(kept)))
    # Of equals the earlier one
    for i in kept:
        assert all(j in kept for j in range(i) if strength[j] == strength[i])


_ROWS = st.lists(st.tuples(st.integers(1, 40), st.integers(-64, 64), st.integers(0, 64)), min_size=1, max_size=10).map(
    lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
)


@given(_ROWS, _TAUS, st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]), st.randoms(use_true_random=False))
def test_selection_does_not_depend_on_order(rows, tau, beta, random):
    num_tokens, sum_signed, more = rows
    # Different strengths, so that there are no ties to break by position
    num_tokens = np.ones_like(num_tokens)
    sum_abs = np.abs(sum_signed) + more + 1 + np.arange(len(more)) / 64
    config = free(tau=float(tau), beta=beta)
    order = list(range(len(more)))
    random.shuffle(order)
    kept = select_segments(num_tokens, sum_abs, sum_signed, config)
    shuffled = select_segments(num_tokens[order], sum_abs[order], sum_signed[order], config)
    assert shuffled.tolist() == kept[order].tolist()


@given(_ROWS, _TAUS, st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]), st.sampled_from([2.0**-20, 0.5, 1024.0, -8.0]))
def test_selection_does_not_depend_on_the_scale_of_attributions(rows, tau, beta, scale):
    """Powers of two, so that rounding stays out of it; a negative factor turns all signs."""
    num_tokens, sum_signed, more = rows
    sum_abs = np.abs(sum_signed) + more
    config = paper(tau=float(tau), beta=beta)
    kept = select_segments(num_tokens, sum_abs, sum_signed, config)
    scaled = select_segments(num_tokens, sum_abs * abs(scale), sum_signed * scale, config)
    assert scaled.tolist() == kept.tolist()


# A worked example: six segments.   tokens, sum|a|, sum a  -> strength (n = tokens), share, consistency
#   0: 4, 2.0,  0.5 -> 1.0 (.10)  .25
#   1: 9, 9.0, -1.8 -> 3.0 (.30)  .20
#   2: 1, 2.5,  2.5 -> 2.5 (.25)  1.0
#   3: 16, 8.0, 6.4 -> 2.0 (.20)  .80
#   4: 4, 2.0, -2.0 -> 1.0 (.10)  1.0
#   5: 100, 5., 0.0 -> 0.5 (.05)  0
_TOKENS = [4, 9, 1, 16, 4, 100]
_ABS = [2.0, 9.0, 2.5, 8.0, 2.0, 5.0]
_SIGNED = [0.5, -1.8, 2.5, 6.4, -2.0, 0.0]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (free(tau=0.7, beta=1.0), [1, 2, 3]),  # .30 + .25 + .20 = .75
        (free(tau=0.5, beta=1.0), [1, 2]),
        (free(tau=0.3, beta=1.0), [1]),
        (free(tau=0.8, beta=1.0), [0, 1, 2, 3]),  # the tie of 0 and 4 goes to 0
        (free(tau=0.9, beta=1.0), [0, 1, 2, 3, 4]),
        (free(tau=1.0, beta=1.0), [0, 1, 2, 3, 4, 5]),
        (free(tau=0.7, beta=0.8), [1, 3]),  # at the bound stays in
        (free(tau=0.7, beta=0.79), [1]),
        (free(tau=1.0, beta=0.25), [0, 1, 5]),
        (free(tau=1.0, beta=0.0), [5]),
        (free(tau=0.7, beta=0.0), []),
        (paper(), [0, 1, 3, 4, 5]),  # the paper's: tau .7, beta .8, first and last two
        (paper(beta=0.0), [0, 4, 5]),
        (paper(beta=0.0, keep_first=2, keep_last=1), [0, 1, 5]),
        (paper(beta=0.0, keep_first=0, keep_last=9), [0, 1, 2, 3, 4, 5]),
        (paper(beta=0.0, keep_first=9, keep_last=0), [0, 1, 2, 3, 4, 5]),
        (paper(beta=0.0, min_tokens_to_mask=134), [0, 4, 5]),  # 134 tokens are not fewer than 134
        (paper(beta=0.0, min_tokens_to_mask=135), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_worked_example(config, kept):
    assert kept_by(_TOKENS, _ABS, _SIGNED, config) == kept


def test_paper_defaults():
    config = paper()
    assert (config.tau, config.beta, config.keep_first, config.keep_last) == (0.7, 0.8, 1, 2)
    assert config.transition == "after_kept" and config.min_tokens_to_mask == 0


def test_strength_divides_by_the_root_of_the_length():
    """Ten times the tokens at the same mean |a|: strength grows by sqrt(10)."""
    assert kept_by([10, 100], [1.0, 10.0], [0, 0], free(tau=0.7)) == [1]  # .316 and 1: .76 of the strength
    assert kept_by([10, 100], [1.0, 10.0], [0, 0], free(tau=0.77)) == [0, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_all_zero_attributions_keep_everything(count):
    assert kept_by([5] * count, [0.0] * count, [0.0] * count, free(tau=0.1, beta=0.0)) == list(range(count))


def test_segments_of_zero_attribution_are_dropped_even_at_tau_one():
    assert kept_by([5, 5, 5], [1.0, 0.0, 2.0], [0.0, 0.0, 0.0], free(tau=1.0, beta=1.0)) == [0, 2]


@pytest.mark.parametrize("config", [free(), free(tau=0.01), paper()])
def test_single_segment_is_kept(config):
    assert kept_by([5], [1.0], [0.5], config) == [0]


def test_single_forced_segment_is_kept_whatever_its_direction():
    assert kept_by([5], [1.0], [1.0], paper(beta=0.0, keep_last=0)) == [0]
    assert kept_by([5], [1.0], [1.0], free(beta=0.0)) == []


@pytest.mark.parametrize(
    ("transition", "mask"),
    [
        # kept:          opening, rest of segments 0 to 4
        ("after_kept", [1, 1, 1, 0, 0, 0, 1, 1, 1, 0]),
        ("every", [1, 1, 1, 0, 1, 0, 1, 1, 1, 0]),
        ("none", [1, 1, 0, 0, 0, 0, 1, 1, 0, 0]),
    ],
)
def test_unit_mask_by_hand(transition, mask):
    kept = np.array([True, False, False, True, False])
    assert unit_mask(kept, transition).astype(int).tolist() == mask
    assert kept.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("transition", ["after_kept", "every", "none"])
def test_unit_mask_at_the_ends(transition):
    assert unit_mask(np.array([True] * 3), transition).tolist() == [True] * 6
    assert unit_mask(np.array([False]), transition).tolist() == [transition == "every", False]
    assert unit_mask(np.array([], dtype=bool), transition).tolist() == []
    # A kept last segment opens nothing at the start
    assert unit_mask(np.array([False, True]), transition).tolist() == [transition == "every", False, True, True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("tau", value) for value in (0, -0.1, 1.01, float("nan"), float("inf"))],
        *[("beta", value) for value in (-0.01, 1.01, float("nan"), float("inf"))],
        *[(name, -1) for name in ("keep_first", "keep_last", "min_tokens_to_mask")],
    ],
)
def test_values_outside_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.* {value} was passed"):
        SelectionConfig(**{name: value})


def test_unknown_transition_is_refused():
    with pytest.raises(ValueError, match=r"Unknown transition 'kept'. Pass one of 'after_kept', 'every', 'none'"):
        SelectionConfig(transition="kept")


@pytest.mark.parametrize("values", [{"tau": 1}, {"tau": 1e-9}, {"beta": 0}, {"beta": 1}, {"keep_first": 0}])
def test_bounds_of_the_ranges_are_taken(values):
    config = SelectionConfig(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


def test_a_threshold_keeps_what_reaches_it():
    # strengths 3, 2, 5
    assert kept_by([4, 9, 1], [6.0, 6.0, 5.0], [0, 0, 0], free(selection="threshold", min_strength=3.0)) == [0, 2]
    assert kept_by([4, 9, 1], [6.0, 6.0, 5.0], [0, 0, 0], free(selection="threshold", min_strength=9.0)) == []
    # No score at all is no basis to choose
    assert kept_by([4, 9, 1], [0.0, 0.0, 0.0], [0, 0, 0], free(selection="threshold")) == [0, 1, 2]


def test_segments_that_speak_against_the_answer_are_dropped():
    # directions 0.5, -0.5, -0.05
    config = free(tau=1.0, beta=1.0, min_direction=-0.1)
    assert kept_by([4, 4, 4], [4.0, 4.0, 4.0], [2.0, -2.0, -0.2], config) == [0, 2]
    assert kept_by([4, 4, 4], [4.0, 4.0, 4.0], [2.0, -2.0, -0.2], free(tau=1.0, beta=1.0)) == [0, 1, 2]


def test_consistency_above_chance_by_hand():
    chance = np.sqrt(2 / (np.pi * np.array([9, 70, 596])))
    np.testing.assert_allclose(chance, [0.266, 0.0954, 0.0327], atol=1e-3)
    scaled = consistency_above_chance(np.array([1.0, chance[1], 0.5]), np.array([9, 70, 596]))
    np.testing.assert_allclose(scaled, [1.0, 0.0, (0.5 - chance[2]) / (1 - chance[2])])


def test_chance_is_the_consistency_of_random_signs():
    generator = np.random.default_rng(0)
    for n in (9, 70, 596):
        signs = generator.choice([-1.0, 1.0], size=(4000, n))
        mean = direction_consistency(signs.sum(1), np.full(4000, float(n))).mean()
        assert abs(consistency_above_chance(mean, n)) < 0.03


def test_consistency_scales_compare_segments_of_different_lengths():
    # 4 tokens at 0.5 and 400 tokens at 0.45: about chance and far above it
    tokens, absolute, signed = [4, 400], [4.0, 40.0], [2.0, 18.0]
    assert kept_by(tokens, absolute, signed, free(tau=1.0, beta=0.3)) == []
    assert kept_by(tokens, absolute, signed, free(tau=1.0, beta=0.3, consistency_scale="chance")) == [0]
    assert kept_by(tokens, absolute, signed, free(tau=1.0, beta=0.47)) == [1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]))
def test_by_rank_at_most_the_share_above_beta_is_dropped(consistencies, beta):
    absolute = np.ones(len(consistencies))
    config = free(tau=1.0, beta=beta, consistency_scale="rank")
    kept = select_segments(absolute, absolute, np.array(consistencies), config)
    lower = [sum(other < one for other in consistencies) / len(consistencies) for one in consistencies]
    assert kept.tolist() == [rank <= beta for rank in lower]
    assert (~kept).sum() <= (1 - beta) * len(kept)


@pytest.mark.parametrize(
    "option", [{"consistency_scale": "z"}, {"min_direction": -1.5}, {"min_strength": -0.1}, {"selection": "strong"}]
)
def test_new_options_say_what_cannot_work(option):
    with pytest.raises(ValueError, match=str(next(iter(option.values())))):
        SelectionConfig(**option)
