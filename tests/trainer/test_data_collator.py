import pickle

import numpy as np
import pytest
import torch
from helpers import store_settings
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_segment import DataCollatorForSegmentSelectiveLM, SelectionConfig
from trl_segment.store import AttributionStore, StoredAttribution
from trl_segment.trainer import SegmentTable


@given(st.data())
def test_exactly_the_dropped_units_are_masked_in_every_layout(data):
    units_count = data.draw(st.integers(1, 8))
    table = torch.tensor([True, *data.draw(st.lists(st.booleans(), min_size=units_count, max_size=units_count))])
    examples = []
    for _ in range(data.draw(st.integers(1, 4))):
        length = data.draw(st.integers(2, 12))
        ids = data.draw(st.lists(st.integers(5, 99), min_size=length, max_size=length))
        ignored = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
        units = data.draw(st.lists(st.integers(0, units_count), min_size=length, max_size=length))
        labels = [-100 if skip else token for token, skip in zip(ids, ignored, strict=True)]
        examples.append({"input_ids": ids, "labels": labels, "segment_units": units})
    padding_free = data.draw(st.booleans())
    inner = DataCollatorForLanguageModeling(
        pad_token_id=0, padding_free=padding_free, pad_to_multiple_of=data.draw(st.sampled_from([None, 8]))
    )
    batch = DataCollatorForSegmentSelectiveLM(inner, table)(examples)

    labels = batch["labels"].tolist()
    position = 0
    for row, example in enumerate(examples):
        for column, (token, label, unit) in enumerate(
            zip(example["input_ids"], example["labels"], example["segment_units"], strict=True)
        ):
            got = labels[0][position] if padding_free else labels[row][column]
            first_of_packed = padding_free and column == 0  # which no token predicts
            expected = token if label != -100 and table[unit] and not first_of_packed else -100
            assert got == expected
            position += 1
    # and nothing but the labels differs from the plain collator's batch
    plain = inner([{k: v for k, v in example.items() if k != "segment_units"} for example in examples])
    for key, value in plain.items():
        if key != "labels" and torch.is_tensor(value):
            assert torch.equal(batch[key], value)


def test_counts_by_hand():
    table = torch.tensor([True, True, True, True, False])  # segment 0 kept, of segment 1 the opening word
    collator = DataCollatorForSegmentSelectiveLM(DataCollatorForLanguageModeling(pad_token_id=0), table)
    batch = collator(
        [{"input_ids": [9, 8, 7, 6, 5, 4], "labels": [-100, 8, 7, 6, 5, 4], "segment_units": [0, 1, 2, 3, 4, 4]}]
    )
    assert batch["labels"].tolist() == [[-100, 8, 7, 6, -100, -100]]
    # trained tokens, tokens, trained segments, segments
    assert batch["segment_counts"].tolist() == [[3, 5, 1, 2]]


def test_examples_without_units_pass_through():
    inner = DataCollatorForLanguageModeling(pad_token_id=0)
    examples = [{"input_ids": [3, 4], "labels": [-100, 4]}]
    batch = DataCollatorForSegmentSelectiveLM(inner, torch.tensor([False]))(examples)
    assert batch.keys() == inner(examples).keys()
    assert batch["labels"].tolist() == [[-100, 4]]


def left_padded(rows):
    """A collator of a user's."""
    width = max(len(row["input_ids"]) for row in rows)

    def pad(name, value):
        return torch.tensor([[value] * (width - len(row[name])) + list(row[name]) for row in rows])

    return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100)}


ROWS = [
    {"input_ids": [7, 8], "labels": [7, 8], "segment_units": [0, 1]},
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "segment_units": [0, 2, 1]},
]


def test_any_collator_that_uses_labels_can_be_inside():
    batch_of = DataCollatorForSegmentSelectiveLM(left_padded, torch.tensor([True, False, True]), weights=None)
    assert batch_of(ROWS)["labels"].tolist() == [[-100, 7, -100], [-100, 6, -100]]
    weighted = DataCollatorForSegmentSelectiveLM(left_padded, torch.tensor([True, False, True]), weights=(2.0, 0.5))
    batch = weighted(ROWS)
    assert batch["labels"].tolist() == [[-100, 7, 8], [-100, 6, 7]]
    # Padding weighs 1, and so do tokens outside the segments
    assert batch["loss_weights"].tolist() == [[1.0, 1.0, 0.5], [1.0, 2.0, 0.5]]


def test_a_collator_that_makes_its_own_labels_is_found_at_the_first_batch():
    def own_labels(rows):
        batch = left_padded(rows)
        return {**batch, "labels": batch["input_ids"].clone()}

    batch_of = DataCollatorForSegmentSelectiveLM(own_labels, torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match="makes labels of its own: 4 of 4 tokens that are not to be trained"):
        batch_of(ROWS)


def test_a_collator_may_put_examples_in_another_order():
    batch_of = DataCollatorForSegmentSelectiveLM(
        lambda rows: left_padded(rows[::-1]), torch.tensor([True, False, True]), weights=(2.0, 0.5)
    )
    assert batch_of(ROWS)["loss_weights"].tolist() == [[1.0, 2.0, 0.5], [1.0, 1.0, 0.5]]


def test_a_collator_that_moves_tokens_about_is_refused():
    def reversed_tokens(rows):
        return {name: value.flip(1) for name, value in left_padded(rows).items()}

    batch_of = DataCollatorForSegmentSelectiveLM(reversed_tokens, torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match="does not lay out the tokens of its examples in order"):
        batch_of(ROWS)


@pytest.mark.parametrize(("labels", "held"), [(3, "one number"), ([3], "1 entries"), ([1, 2, 3], "3 entries")])
def test_labels_of_another_length_are_refused(labels, held):
    """Broadcasting would train every position on token 3."""
    batch_of = DataCollatorForSegmentSelectiveLM(left_padded, torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match=f"has 2 tokens, but its column 'labels' holds {held}"):
        batch_of([{**ROWS[0], "labels": labels}])


def test_attributes_of_the_other_collator_are_read_through():
    batch_of = DataCollatorForSegmentSelectiveLM(DataCollatorForLanguageModeling(pad_token_id=9), torch.tensor([True]))
    assert batch_of.pad_token_id == 9 and batch_of.padding_free is False
    with pytest.raises(AttributeError, match="nonsense"):
        _ = batch_of.nonsense
    assert pickle.loads(pickle.dumps(batch_of)).pad_token_id == 9


def test_the_other_collator_runs_once_a_batch():
    calls = []

    def counting(rows):
        calls.append(rows)
        return left_padded(rows)

    table = torch.tensor([True, False, True])
    DataCollatorForSegmentSelectiveLM(counting, table, weights=(1.0, 0.0))(ROWS)
    evaluated = [{"eval_segment_units" if k == "segment_units" else k: v for k, v in row.items()} for row in ROWS]
    batch = DataCollatorForSegmentSelectiveLM(counting, table, evaluated=table)(evaluated)
    assert len(calls) == 2
    assert batch["kept_tokens"].tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]


@pytest.fixture
def store(tmp_path):
    store = AttributionStore(tmp_path / "store", store_settings())
    store.add(StoredAttribution("a", "A", None, [4, 4, 4], [8.0, 1.0, 1.0], [0.0, 0.0, 0.0]))
    store.add(StoredAttribution("b", "B", "the attributions are not finite"))
    store.add(StoredAttribution("c", "C", None, [1, 9], [1.0, 9.0], [1.0, -9.0]))
    return store


def test_the_table_is_filled_by_hand_computed_selection(store):
    table = SegmentTable(
        ["a", "b", "c", "d"], ["A", "B", "C", "D"], np.array([3, 2, 2, 0]), [None, None, None, "no answer"]
    )
    store.add(StoredAttribution("d", "D", "no answer"))
    config = SelectionConfig(tau=0.7, beta=0.8, consistency_scale="absolute", keep_first=0, keep_last=0)
    summary = table.fill(store, config)
    # a: strengths 4, .5, .5, of which the first is 80 %. c: strengths 1, 3; the second reaches 75 % but all its tokens
    # push one way, so none is left.
    a = [True, True, True, False, False, False]
    assert table.trained.tolist() == [True, *a, True, True, True, True, False, False, False, False]
    assert (summary.segments, summary.kept_segments, summary.tokens, summary.kept_tokens) == (5, 1, 22, 4)
    assert summary.skipped == {"the attributions are not finite": ["B"], "no answer": ["D"]}
    assert "1 of 5" in str(summary)


def test_the_table_is_shared_with_other_processes(store):
    table = SegmentTable(["a"], ["A"], np.array([3]), [None])
    assert table.trained.is_shared()
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply_async(_set_false, (table.trained,))
        result.get(timeout=120)
    assert table.trained.tolist()[1] is False


def _set_false(tensor):
    tensor[1] = False


def test_a_trace_that_the_store_lacks_is_named(store):
    table = SegmentTable(["a", "z"], ["A", "row 7"], np.array([3, 2]), [None, None])
    with pytest.raises(ValueError, match=r"1 of 2 traces .* row 7"):
        table.fill(store, SelectionConfig())


def test_the_collator_can_go_to_a_spawned_worker():
    collator = DataCollatorForSegmentSelectiveLM(DataCollatorForLanguageModeling(0), torch.tensor([True, False]))
    example = {"input_ids": [3, 4], "labels": [3, 4], "segment_units": [0, 1]}
    assert pickle.loads(pickle.dumps(collator))([example])["labels"].tolist() == [[3, -100]]
