"""The world behind the demo, and attribution quality on the model that was trained in it."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trl_segment import IntegratedGradients, SelectionConfig, build_trace, select_segments
from trl_segment.attribution import SegmentScorer
from trl_segment.attribution.loading import load_attribution_model
from trl_segment.cli import main as cli
from trl_segment.traces import attributed_sequence


FOLDER = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
sys.path.insert(0, str(FOLDER))

import world  # noqa: E402


@pytest.fixture(scope="module")
def loaded():
    return load_attribution_model(str(FOLDER / "checkpoint"))


def rows():
    return [json.loads(line) for line in (FOLDER / "traces.jsonl").read_text().splitlines()]


def sequences(tokenizer, every=6):
    return [(row, attributed_sequence(build_trace(row), tokenizer)) for row in rows()[::every]]


@pytest.mark.parametrize("setting", sorted(world.SETTINGS))
def test_our_segments_are_the_worlds_and_their_openings_say_nothing(setting):
    openings = {True: [], False: []}
    for row in world.make_rows(setting, 150, split="test-of-segments"):
        texts = build_trace(row).segment_texts
        assert len(texts) == len(row["roles"])
        for text, role in zip(texts[1:], row["roles"][1:], strict=True):
            openings[role in world.USEFUL_ROLES].append(re.match(r"\n\n(\w+)", text).group(1))
            if role in world.USEFUL_ROLES:
                assert re.search(r" makes \w+, so \w+ is \w+\.", text)
    # The shares of each opening among useful and other segments differ by chance only
    for word in set(openings[True]):
        shares = [openings[kind].count(word) / len(openings[kind]) for kind in (True, False)]
        assert abs(shares[0] - shares[1]) < 0.06


def test_the_answer_is_what_the_table_makes_of_the_problem():
    for row in world.make_rows("detours", 50, split="test-of-answers"):
        values = {}
        lines = re.search(r"Lines: (.*)\. Report", row["question"]).group(1)
        for line in lines.split("; "):
            name, a, b = re.fullmatch(r"(\w+): (\w+) with (\w+)", line).groups()
            values[name] = world.TABLE[values.get(a, a), values.get(b, b)]
        assert row["answer"] == values["omega"]
        assert row["solution"].endswith(f"\\boxed{{{row['answer']}}}.")


def test_the_model_reads_its_answer_out_of_the_reasoning(loaded):
    model, tokenizer = loaded
    whole, without = [], []
    for row in rows()[::4]:
        trace = build_trace(row)
        decisive = max(i for i, role in enumerate(row["roles"]) if role in world.USEFUL_ROLES)
        cut = "".join(text for i, text in enumerate(trace.segment_texts) if f"omega is {row['answer']}" not in text)
        assert f"omega is {row['answer']}" in trace.segment_texts[decisive]
        for values, reasoning in ((whole, "".join(trace.segment_texts)), (without, cut)):
            changed = build_trace({**row, "solution": f"<think>\n{reasoning}</think>"})
            sequence = attributed_sequence(changed, tokenizer)
            ids = torch.tensor(sequence.input_ids)[None]
            with torch.no_grad():
                log_probs = model(ids).logits[0].log_softmax(-1)
            start, end = sequence.target
            values.append(sum(log_probs[t - 1, ids[0, t]].item() for t in range(start, end)))
    assert np.mean(whole) > -0.3
    assert np.mean(without) < -3


def select(result, **options):
    return select_segments(result.num_tokens, result.sum_abs, result.sum_signed, SelectionConfig(**options))


def test_the_adaptive_rule_is_as_faithful_as_the_papers_at_half_the_cost(loaded):
    """Against 257 nodes, which differ from 129 by less than a thousandth: the published 50 nodes and ours."""
    model, tokenizer = loaded
    engines = {
        "paper": IntegratedGradients(model, rule="paper", evaluations=50),
        "simpson": IntegratedGradients(model),
        "decision": IntegratedGradients(model, stop="decision"),
    }
    fine = IntegratedGradients(model, rule="trapezoid", evaluations=257)
    error, exact, spent = ({name: [] for name in engines} for _ in range(3))
    for _, sequence in sequences(tokenizer, every=12):
        arguments = (sequence.input_ids, sequence.target, sequence.segments)
        truth = fine.attribute(*arguments)
        for name, engine in engines.items():
            result = engine.attribute(*arguments)
            error[name].append(np.abs(result.tokens - truth.tokens).sum() / np.abs(truth.tokens).sum())
            exact[name].append(np.array_equal(select(result), select(truth)))
            spent[name].append(result.evaluations)
            assert result.stopped_by in ("nodes", "tolerance", "decision")
    assert np.mean(error["simpson"]) < np.mean(error["paper"])
    assert np.mean(spent["simpson"]) < 40
    assert np.mean(exact["simpson"]) >= 0.75
    assert np.mean(spent["decision"]) <= np.mean(spent["simpson"])
    assert np.mean(exact["decision"]) >= 0.75


def test_useful_segments_stand_out_in_the_reasoning_only_attribution(loaded):
    """The segment that settles the answer is among the strongest three in most traces without later copies of it."""
    model, tokenizer = loaded
    engine = IntegratedGradients(model, rule="midpoint", evaluations=16, path="reasoning")
    ranks, chance = [], []
    for row, sequence in sequences(tokenizer, every=3):
        texts = build_trace(row).segment_texts
        result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
        strength = result.sum_abs / np.sqrt(result.num_tokens)
        telling = [i for i, text in enumerate(texts) if f"omega is {row['answer']}" in text]
        ranks.append(min(np.flatnonzero(np.argsort(-strength) == i)[0] for i in telling) < 3)
        chance.append(1 - np.prod([1 - 3 / len(texts)] * len(telling)))
    assert np.mean(ranks) > 0.85
    assert np.mean(chance) < 0.6


def test_confidence_gain_is_large_where_the_answer_is_settled(loaded):
    """Elsewhere it is the wandering of a model that does not know yet."""
    model, tokenizer = loaded
    scorer = SegmentScorer(model, "confidence_gain")
    settling, others = [], []
    for row, sequence in sequences(tokenizer):
        result = scorer.attribute(sequence.input_ids, sequence.target, sequence.segments)
        first = next(i for i, text in enumerate(build_trace(row).segment_texts) if f"omega is {row['answer']}" in text)
        gains = result.sum_abs / np.sqrt(result.num_tokens)
        settling.append(gains[first])
        others += [*gains[:first], *gains[first + 1 :]]
    assert np.mean(settling) > 3 * np.mean(others)


def test_the_demo_runs_from_start_to_trained_model(tmp_path, capfd):
    cli.main(["demo", "--output_dir", str(tmp_path)])
    shown = capfd.readouterr().out
    assert "48 traces: 48 attributed" in shown
    assert re.search(r"kept \d+ of \d+ segments", shown)
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert '"token_values"' in (tmp_path / "trace.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="clone the repository"):
        cli.main(["demo", "--world", str(tmp_path)])
