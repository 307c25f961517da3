"""Selection quality by hand, and the command on a store."""

import json
import math

import numpy as np
import pytest
from helpers import store_settings
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.evaluation.quality import describe_quality, selection_quality
from trl_segment.selection import SegmentScores, SelectionConfig, select


TRACES = [
    (["useful", "filler", "useful_indirect", "error"], [1, 1, 0, 0], [3.0, 2.0, 1.0, 4.0]),
    (["filler", "useful", "filler"], [0, 1, 0], [0.0, 1.0, 1.0]),
]


def test_counts_by_hand():
    quality = selection_quality(TRACES)
    # kept: useful, filler, useful; useful: three
    assert (quality.precision, quality.recall, quality.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    # pairs of the first trace: 3>2, 3<4, 1<2, 1<4; of the second: 1>0, 1=1
    assert quality.auc == pytest.approx((1 + 1 + 0.5) / 6)
    assert {role: (q.segments, q.kept) for role, q in quality.roles.items()} == {
        "useful": (2, 2),
        "filler": (3, 1),
        "useful_indirect": (1, 0),
        "error": (1, 0),
    }
    assert quality.roles["useful"].auc == pytest.approx((1 + 1 + 0.5) / 4)
    assert quality.roles["error"].auc == 0
    # by chance: 2 of 4 segments of which 2 are useful, and 1 of 3 of which 1 is: 1 + 1/3 of 3 kept, and of 3 useful
    assert (quality.precision_by_chance, quality.recall_by_chance) == pytest.approx((4 / 9, 4 / 9))
    assert quality.f1_by_chance == pytest.approx(4 / 9)
    shown = describe_quality(quality)
    assert "precision 0.667 (by chance 0.444), recall 0.667 (by chance 0.444), F1 0.667 (by chance 0.444)" in shown


def test_chance_by_hand_where_ends_are_always_kept():
    roles = ["useful", "filler", "useful", "filler", "filler", "error"]
    kept = [1, 1, 0, 0, 0, 1]
    # The first and the last are in every draw: 1 useful. One of the 4 between them is drawn, and 1 is useful
    config = SelectionConfig(keep_first=1, keep_last=1)
    quality = selection_quality([(roles, kept, np.ones(6))], config=config)
    assert (quality.precision, quality.recall) == pytest.approx((1 / 3, 1 / 2))
    assert (quality.precision_by_chance, quality.recall_by_chance) == pytest.approx((1.25 / 3, 1.25 / 2))
    assert quality.f1_by_chance == pytest.approx(2 * 1.25 / (3 + 2))
    # Of 3 segments that count, the ends gone, 1 is useful
    quality = selection_quality([(roles, kept, np.ones(6))], ignored_roles=["error"], config=config)
    assert quality.precision_by_chance == pytest.approx((1 + 1 / 4) / 2)
    quality = selection_quality([(roles, kept, np.ones(6))], ignored_roles=["useful"], config=config)
    assert quality.precision_by_chance == 0 and math.isnan(quality.recall_by_chance)


def test_chance_is_what_random_selections_reach():
    generator = np.random.default_rng(0)
    traces = []
    for index in range(6):
        count = 5 + index
        roles = np.where(generator.random(count) < 0.4, "useful", "filler").tolist()
        traces.append((roles, SegmentScores(np.full(count, 9), scores=generator.random(count)), f"{index:x}"))

    def quality_of(config):
        compared = [(roles, select(scores, config, key).kept, scores.strength) for roles, scores, key in traces]
        return selection_quality(compared, config=config)

    chosen = quality_of(SelectionConfig(tau=0.8))
    drawn = [quality_of(SelectionConfig(tau=0.8, selection="random", seed=seed)).precision for seed in range(2000)]
    assert chosen.precision_by_chance == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 2000**0.5)


def test_ignored_roles_count_neither_way():
    quality = selection_quality(TRACES, useful_roles=("useful",), ignored_roles=("useful_indirect", "error"))
    assert (quality.precision, quality.recall) == pytest.approx((2 / 3, 1))
    assert quality.auc == pytest.approx((1 + 1 + 0.5) / 3)
    assert math.isnan(quality.roles["error"].auc) and quality.roles["error"].segments == 1


def test_nothing_kept_or_nothing_useful():
    quality = selection_quality([(["useful", "filler"], [0, 0], [1.0, 1.0])])
    assert math.isnan(quality.precision) and quality.recall == 0 and quality.f1 == 0 and quality.auc == 0.5
    quality = selection_quality([(["filler"], [1], [1.0])])
    assert quality.precision == 0 and math.isnan(quality.recall) and quality.f1 == 0 and math.isnan(quality.auc)


def test_roles_of_another_way_of_cutting_are_an_error():
    with pytest.raises(ValueError, match="3 roles, 2 kept"):
        selection_quality([(["a", "b", "c"], [1, 0], [1.0, 2.0])])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_it_agrees_with_the_definitions_written_out(segments):
    """Area by ranks, F1 by counts, both written out."""
    useful, kept, strength = (np.array(column) for column in zip(*segments, strict=True))
    quality = selection_quality([(["useful" if u else "filler" for u in useful], kept, strength)])
    hits = sum(u and k for u, k in zip(useful, kept, strict=True))
    assert quality.f1 == pytest.approx(2 * hits / (sum(useful) + sum(kept)) if hits else 0)
    if 0 < useful.sum() < len(useful):
        ranks = np.array(
            [np.mean([(s > t) + 0.5 * (s == t) for t in strength]) * len(strength) + 0.5 for s in strength]
        )
        n = useful.sum()
        area = (ranks[useful].sum() - n * (n + 1) / 2) / (n * (len(useful) - n))
        assert quality.auc == pytest.approx(area)


def test_the_command_prints_a_table_and_draws(tmp_path, capsys, refused):
    from trl_segment.cli.main import main
    from trl_segment.store import AttributionStore, StoredAttribution
    from trl_segment.traces import build_trace

    rows = [
        {
            "id": f"row-{i}",
            "question": f"What is {i} + 1?",
            "solution": f"<think>\nOne.\n\nWait, two.\n\nHowever, {i}.\n</think>\n\n\\boxed{{{i + 1}}}",
            "answer": str(i + 1),
            "roles": ["filler", "useful", "error"],
        }
        for i in range(3)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = AttributionStore(tmp_path / "store", store_settings())
    for row in rows[:2]:
        trace = build_trace(row)
        store.add(StoredAttribution(trace.key, row["id"], None, [4, 4, 4], [1.0, 4.0, 0.2], [0.1, 0.2, 0.0]))
    store.flush()
    arguments = ["quality", "--dataset_name", str(data), "--attributions", str(tmp_path / "store")]
    arguments += ["--keep_first", "0", "--keep_last", "0", "--output_dir", str(tmp_path / "out")]
    main(arguments)
    printed = capsys.readouterr().out
    assert "\n  1 x not in the store: row-2\n" in printed
    # One of three segments is kept in each, and one of three is useful
    assert "2 traces: precision 1.000 (by chance 0.333), recall 1.000 (by chance 0.333), F1 1.000 (by" in printed
    assert json.loads((tmp_path / "out" / "quality.json").read_text())["f1"] == 1
    assert "<svg" in (tmp_path / "out" / "quality.svg").read_text()
    with refused("no such column"):
        main([*arguments, "--roles_column", "nothing"])
