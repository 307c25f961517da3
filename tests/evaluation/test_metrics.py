"""Figures of an evaluation, against hand computation and closed forms."""

from itertools import combinations

import numpy as np
import pytest

from trl_segment.evaluation import Graded, bootstrap, paired_difference, pass_at_k, summarize


def graded(ids, correct, tokens=None):
    correct = np.array(correct, dtype=bool)
    verdicts = [["correct" if c else "wrong" for c in row] for row in correct]
    tokens = None if tokens is None else np.array(tokens)
    return Graded(ids, correct, verdicts, tokens, None if tokens is None else tokens > 50)


def test_pass_at_k_is_the_mean_over_all_choices_of_k():
    correct = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], dtype=bool)
    for k in range(1, 6):
        by_hand = [np.mean([row[list(chosen)].any() for chosen in combinations(range(5), k)]) for row in correct]
        assert pass_at_k(correct, k) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="pass@6 takes at least 6 samples"):
        pass_at_k(correct, 6)


def test_the_interval_of_a_share_is_the_binomial_one():
    estimate = bootstrap([np.repeat([1.0, 0.0], [120, 280])], resamples=20_000)
    assert estimate.value == pytest.approx(0.3)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert [estimate.low, estimate.high] == pytest.approx([0.3 - half, 0.3 + half], abs=0.004)


def test_sets_count_the_same_and_are_resampled_each_for_itself():
    sets = [np.repeat([1.0, 0.0], [30, 10]), np.repeat([1.0, 0.0], [100, 300])]
    estimate = bootstrap(sets, resamples=20_000)
    assert estimate.value == pytest.approx(0.5)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 40 + 0.25 * 0.75 / 400) / 2
    assert [estimate.low, estimate.high] == pytest.approx([0.5 - half, 0.5 + half], abs=0.01)
    assert np.isnan(bootstrap([np.array([])]).value)


def test_figures_by_hand():
    figures = summarize([graded(["a", "b"], [[1, 0, 0, 0], [1, 1, 0, 1]], [[10, 20, 30, 99], [10, 20, 60, 70]])])
    assert (figures.problems, figures.samples) == (2, 4)
    assert figures.accuracy.value == 0.5
    assert {k: e.value for k, e in figures.pass_at.items()} == pytest.approx({1: 0.5, 2: 0.75, 4: 1.0})
    assert figures.mean_tokens.value == pytest.approx(39.875)
    assert figures.median_tokens == 25
    assert figures.cut_off.value == 3 / 8
    assert figures.verdicts == {"correct": 4, "wrong": 4}
    assert summarize([graded(["a"], [[1]])]).mean_tokens is None


def test_paired_differences_are_narrower_than_unpaired_ones():
    generator = np.random.default_rng(0)
    hard = generator.random(300)
    ids = [f"p{i}" for i in range(300)]
    first = graded(ids, (hard < 0.5)[:, None], (100 + 900 * hard)[:, None])
    second = graded(ids[::-1], (hard < 0.55)[::-1][:, None], (80 + 900 * hard)[::-1][:, None])
    difference = paired_difference([first], [second])
    assert difference["problems"] == 300
    expected = np.mean(hard < 0.55) - np.mean(hard < 0.5)
    assert difference["accuracy"].value == pytest.approx(expected)
    share = expected
    half = 1.96 * np.sqrt(share * (1 - share) / 300)  # only the problems that changed differ, all one way
    assert difference["accuracy"].low == pytest.approx(share - half, abs=0.01)
    assert [difference["tokens"].value, difference["tokens"].low, difference["tokens"].high] == pytest.approx(
        [-20] * 3, abs=1
    )


def test_only_shared_problems_are_compared():
    first = graded(["a", "b", "c"], [[1], [0], [1]])
    second = graded(["b", "c", "d"], [[1, 1], [0, 1], [1, 1]])
    difference = paired_difference([first], [second])
    assert difference["problems"] == 2
    assert difference["accuracy"].value == pytest.approx((1 + -0.5) / 2)
    assert difference["tokens"] is None
    nothing = paired_difference([first], [graded(["x"], [[1]])])
    assert nothing == {"problems": 0, "accuracy": None, "tokens": None, "cut_off": None}
