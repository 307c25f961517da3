"""`select`: every value of `selection`, a verdict for every segment, one recipe for what is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.selection import (
    DROPPED_BY_CHANCE,
    SELECTIONS,
    VERDICTS,
    ReliabilityCount,
    SegmentScores,
    SelectionConfig,
    always_trained,
    select,
    select_segments,
    sum_over_segments,
    trained_in_full,
)


# Strengths 4, 3, 2, 1, 0.5; the second is one-sided, the third speaks against the answer
TOKENS = SegmentScores([1] * 5, [4.0, 3.0, 2.0, 1.0, 0.5], [0.4, 3.0, -1.2, 0.0, 0.0])
WHOLE = SegmentScores([1] * 5, scores=[4.0, 3.0, 2.0, 1.0, 0.5])
KEY = "0123456789abcdef0123456789abcdef"


LETTERS = {
    "K": "kept",
    "A": "kept, always",
    "w": "dropped, weak",
    "o": "dropped, one-sided",
    "a": "dropped, against",
}


def config(**options):
    scale = {"consistency_scale": "absolute"}
    return SelectionConfig(**{**scale, "tau": 0.8, "beta": 0.8, "keep_first": 0, "keep_last": 1, **options})


@pytest.mark.parametrize(
    ("scores", "options", "verdicts"),
    [
        (TOKENS, {}, "KoKwA"),
        (TOKENS, {"min_direction": -0.5}, "KoawA"),
        # Where both reasons hold, the direction is named
        (TOKENS, {"beta": 0.5, "min_direction": -0.5}, "KoawA"),
        (TOKENS, {"selection": "threshold", "min_strength": 1.0}, "KoKKA"),
        (TOKENS, {"selection": "all"}, "KKKKA"),
        (TOKENS, {"min_tokens_to_mask": 6}, "KKKKA"),
        (TOKENS, {"min_tokens_to_mask": 5}, "KoKwA"),
        (TOKENS, {"keep_first": 2, "keep_last": 0}, "AAKww"),
        # Without a direction neither of its bounds says anything, not even the tightest
        (WHOLE, {"beta": 0.0, "min_direction": 1.0}, "KKKwA"),
        (WHOLE, {"consistency_scale": "rank", "beta": 0.0}, "KKKwA"),
        (WHOLE, {"selection": "threshold", "min_strength": 2.5}, "KKwwA"),
        (WHOLE, {"selection": "all"}, "KKKKA"),
    ],
)
def test_verdicts_by_hand(scores, options, verdicts):
    selection = select(scores, config(**options), KEY)
    assert list(selection.verdicts) == [LETTERS[letter] for letter in verdicts]
    assert selection.kept.tolist() == [verdict.startswith("kept") for verdict in selection.verdicts]
    assert selection.kept.dtype == bool


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_any_strength_everything_is_kept(selection, count):
    zeros = [0.0] * count
    for scores in (SegmentScores([4] * count, zeros, zeros), SegmentScores([4] * count, scores=zeros)):
        found = select(scores, SelectionConfig(selection=selection, min_strength=1.0), KEY)
        assert found.kept.all() and len(found.kept) == len(found.verdicts) == count
        assert set(found.verdicts) <= {"kept", "kept, always"}


_COUNTS = st.integers(0, 40)


@given(count=_COUNTS, number=st.integers(0, 2**32), directed=st.booleans(), selection=st.sampled_from(SELECTIONS))
def test_verdicts_agree_with_what_is_kept(count, number, directed, selection):
    draw = np.random.default_rng(number)
    sum_abs = draw.exponential(size=count)
    num_tokens = draw.integers(1, 50, count)
    sums = {"sum_abs": sum_abs, "sum_signed": sum_abs * draw.uniform(-1, 1, count)}
    scores = SegmentScores(num_tokens, **(sums if directed else {"scores": sum_abs}))
    thresholds = SelectionConfig(
        selection=selection, tau=float(draw.uniform(0.01, 1)), beta=float(draw.uniform(0, 1)), min_strength=0.2,
        min_direction=float(draw.uniform(-1, 0)), keep_first=int(draw.integers(3)), keep_last=int(draw.integers(3)),
    )  # fmt: skip
    found = select(scores, thresholds, KEY)
    always = always_trained(count, thresholds)
    assert set(found.verdicts) <= set(VERDICTS)
    assert found.kept.tolist() == [verdict.startswith("kept") for verdict in found.verdicts]
    assert always.tolist() == [verdict == "kept, always" for verdict in found.verdicts]
    assert (DROPPED_BY_CHANCE in found.verdicts) == (selection == "random" and not found.kept.all())
    if directed:
        again = select_segments(num_tokens, sums["sum_abs"], sums["sum_signed"], thresholds, KEY)
        assert np.array_equal(again, found.kept)


def many(count=60):
    draw = np.random.default_rng(3)
    sum_abs = draw.exponential(size=count)
    return SegmentScores(draw.integers(1, 50, count), sum_abs, sum_abs * draw.uniform(-1, 1, count))


def test_a_draw_is_of_the_seed_and_the_key_and_keeps_as_many():
    scores = many()
    options = {"tau": 0.5, "keep_first": 1, "keep_last": 2}
    by_rule = select(scores, SelectionConfig(**options), KEY).kept
    drawn = select(scores, SelectionConfig(**options, selection="random", seed=7), KEY)
    assert drawn.kept.sum() == by_rule.sum() and not np.array_equal(drawn.kept, by_rule)
    assert drawn.kept[[0, -2, -1]].all()
    assert drawn.verdicts.count("kept, always") == 3
    # The recipe, so that what training, a page and a study draw stays one thing
    expected = np.zeros(60, dtype=bool)
    expected[[0, -2, -1]] = True
    others = np.arange(1, 58)
    generator = np.random.default_rng([7, int(KEY, 16)])
    expected[generator.choice(others, by_rule.sum() - 3, replace=False)] = True
    assert np.array_equal(drawn.kept, expected)


def test_a_draw_is_the_same_again_and_another_with_another_seed_or_key():
    scores = many()

    def draw(seed=42, key=KEY, **options):
        return select(scores, SelectionConfig(tau=0.5, selection="random", seed=seed, **options), key).kept

    same = draw()
    assert np.array_equal(draw(), same)
    thresholds = SelectionConfig(tau=0.5, selection="random")
    bare = select_segments(scores.num_tokens, scores.sum_abs, scores.sum_signed, thresholds, KEY)
    assert np.array_equal(bare, same)
    assert not np.array_equal(draw(seed=43), same)
    assert not np.array_equal(draw(key=KEY[::-1]), same)
    # The upper half of the key counts too
    assert not np.array_equal(draw(key=f"f{KEY[1:]}"), same)


def test_draws_are_even():
    """Over many keys every segment that is not forced is drawn about equally often, whatever its strength."""
    scores, thresholds = many(20), SelectionConfig(tau=0.5, keep_first=0, keep_last=0, selection="random")
    kept = np.mean([select(scores, thresholds, f"{number:x}").kept for number in range(2000)], axis=0)
    assert np.abs(kept - kept.mean()).max() < 0.06


# Scores


def test_scores_are_arrays_of_fixed_types():
    scores = SegmentScores([4, 9], [6, 6], [3, -6])
    assert scores.num_tokens.dtype == np.int64
    assert scores.sum_abs.dtype == scores.sum_signed.dtype == np.float64
    assert len(scores) == 2 and scores.directed
    assert scores.strength.tolist() == [3.0, 2.0] and scores.consistency.tolist() == [0.5, 1.0]
    assert scores.scaled_consistency("rank").tolist() == [0.0, 0.5]
    whole = SegmentScores([4, 9], scores=[6, 0.5])
    assert not whole.directed and whole.sum_abs is None
    # As they are: the length of a segment has no part in a score of the whole
    assert whole.strength.tolist() == [6.0, 0.5]
    for scale in ("absolute", "chance", "rank"):
        assert np.isnan(whole.scaled_consistency(scale)).all()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sum_abs": [1.0, 2.0]},
        {"sum_signed": [1.0, 2.0]},
        {"sum_abs": [1.0, 2.0], "scores": [1.0, 2.0]},
        {"sum_abs": [1.0, 2.0], "sum_signed": [1.0, 2.0], "scores": [1.0, 2.0]},
    ],
)
def test_neither_kind_of_scores_and_both_are_refused(given):
    with pytest.raises(ValueError, match="either `sum_abs` and `sum_signed` or `scores`"):
        SegmentScores([1, 2], **given)


@pytest.mark.parametrize(
    "given",
    [
        {"sum_abs": [1.0, 2.0], "sum_signed": [1.0]},
        {"sum_abs": [1.0], "sum_signed": [1.0, 2.0]},
        {"scores": [1.0, 2.0, 3.0]},
        {"scores": []},
        {"scores": [[1.0], [2.0]]},
        {"scores": 1.0},
    ],
)
def test_another_number_of_scores_than_of_segments_is_refused(given):
    with pytest.raises(ValueError, match="one number for each of the 2 segments"):
        SegmentScores([1, 2], **given)


def test_sums_over_segments_by_hand():
    scores = sum_over_segments(np.array([1.0, -2.0, 4.0, 8.0, -16.0]), [(0, 2), (2, 2), (2, 5)])
    assert scores.num_tokens.tolist() == [2, 0, 3]
    assert scores.sum_abs.tolist() == [3.0, 0.0, 28.0]
    assert scores.sum_signed.tolist() == [-1.0, 0.0, -4.0]
    assert len(sum_over_segments(np.zeros(3), [])) == 0


def test_a_trace_that_the_model_does_not_read_is_trained_in_full_where_asked():
    strength = np.array([3.0, 1.0, 0.5, 0.0, 0.0])
    for gain, min_gain, full in ((0.4, 0.5, True), (0.5, 0.5, False), (0.4, None, False), (None, 0.5, False)):
        scores = SegmentScores(np.full(5, 10), scores=strength, gain=gain)
        config = SelectionConfig(min_gain=min_gain, keep_first=0, keep_last=0)
        assert select(scores, config).kept.tolist() == ([True] * 5 if full else [True, True, False, False, False])
        assert trained_in_full(scores, config) == full
    with pytest.raises(ValueError, match="`min_gain` is a log-probability in nats and must be finite"):
        SelectionConfig(min_gain=float("nan"))


def test_traces_that_the_model_does_not_read_are_counted_and_named():
    count = ReliabilityCount()
    for name, gain in (("a", 3.0), ("b", 0.49), ("c", -2.0), ("d", None), ("e", 0.5)):
        count.add(name, None, gain)
    assert (count.unread, count.read, count.traces) == (["b", "c"], 2, 0)
    assert "in 2 of 4 traces" in count.unread_warning() and "(b, c)" in count.unread_warning()
    assert ReliabilityCount().unread_warning() is None
