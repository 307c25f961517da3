"""The world behind the demo, and attribution quality on the model that was trained in it."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from helpers import REPOSITORY

from trl_segment import IntegratedGradients, SelectionConfig, build_trace
from trl_segment.attribution import SCORERS, BackwardSweep, CounterfactualSweep
from trl_segment.cli import main as cli
from trl_segment.evaluation.quality import selection_quality
from trl_segment.models import load_model
from trl_segment.selection import select
from trl_segment.traces import attributed_sequence


FOLDER = REPOSITORY / "examples" / "tiny_world"
sys.path.insert(0, str(FOLDER))

import world  # noqa: E402


@pytest.fixture(scope="module")
def loaded():
    return load_model(str(FOLDER / "checkpoint"))


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
                name = re.search(r" makes \w+, so (\w+)=\w+\.", text).group(1)
                assert (name in world.parse_answer(row["answer"])) == (role in world.DIRECT_ROLES)
            # Also what a model wrote has its role read off; both kinds of useful read the same
            assert world.role_of(text) == role.removesuffix("_indirect")
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
        asked = re.search(r"Report (.*)\.", row["question"]).group(1).replace(" and ", ", ").split(", ")
        assert world.parse_answer(row["answer"]) == {name: values[name] for name in asked}
        assert row["answer"] == "\\text{" + ", ".join(f"{name}={values[name]}" for name in asked) + "}"
        assert row["solution"].endswith(f"\\boxed{{{row['answer']}}}.")
        assert world.parse_solution(row["solution"])[1] == row["answer"]


@pytest.mark.parametrize("setting", sorted(world.SETTINGS))
def test_every_register_matters_and_every_useful_step_is_the_only_one_of_its_register(setting):
    for row in world.make_rows(setting, 60, split="test-of-use"):
        used = set(world.parse_answer(row["answer"]))
        for line in reversed(re.search(r"Lines: (.*)\. Report", row["question"]).group(1).split("; ")):
            name, a, b = re.fullmatch(r"(\w+): (\w+) with (\w+)", line).groups()
            assert name in used
            used |= {a, b}
        texts = build_trace(row).segment_texts
        settled = [
            re.search(r"so (\w+)=", text).group(1)
            for text, role in zip(texts, row["roles"], strict=True)
            if role in world.USEFUL_ROLES
        ]
        assert settled == [line.split(":")[0] for line in re.search(r"Lines: (.*)\.", row["question"])[1].split("; ")]


@pytest.mark.parametrize("setting", sorted(world.SETTINGS))
def test_segments_and_traces_are_as_long_as_they_are_said_to_be(setting, loaded):
    _, tokenizer = loaded
    counts = []
    for row in world.make_rows(setting, 100, split="test-of-lengths"):
        sequence = attributed_sequence(build_trace(row), tokenizer)
        # Statements come on top, and are as long as the answer
        steps = [span for span, role in zip(sequence.segments, row["roles"], strict=True) if role != "statement"]
        counts.append(len(steps))
        assert all(20 <= b - a <= 80 for a, b in steps)
    assert min(counts) >= 15 and max(counts) <= 41
    assert 3 / np.mean(counts) < 0.1


def test_settings_differ_in_what_their_redundancy_is():
    shares = {}
    for name in world.SETTINGS:
        roles = [role for row in world.make_rows(name, 100, split="test-of-shares") for role in row["roles"]]
        shares[name] = {role: roles.count(role) / len(roles) for role in world.ROLES}
    repetition, detours = shares["repetition"], shares["detours"]
    assert repetition["verification"] > 3 * detours["verification"]
    assert detours["error"] > 3 * repetition["error"]
    indirect = [s["useful_indirect"] + s["correction_indirect"] for s in (repetition, detours)]
    assert indirect[1] > 1.2 * indirect[0]


def test_the_model_reads_its_answer_out_of_the_reasoning(loaded):
    model, tokenizer = loaded
    whole, without = [], []
    for row in rows()[::4]:
        trace = build_trace(row)
        said = re.compile(r"\b(" + "|".join(world.parse_answer(row["answer"])) + r")=")
        cut = "".join(text for text in trace.segment_texts if not said.search(text))
        for values, reasoning in ((whole, "".join(trace.segment_texts)), (without, cut)):
            changed = build_trace({**row, "solution": f"<think>{reasoning}</think>"})
            sequence = attributed_sequence(changed, tokenizer)
            ids = torch.tensor(sequence.input_ids)[None]
            with torch.no_grad():
                log_probs = model(ids).logits[0].log_softmax(-1)
            start, end = sequence.target
            values.append(sum(log_probs[t - 1, ids[0, t]].item() for t in range(start, end)))
    assert np.mean(whole) > -0.3
    assert np.mean(without) < -3


def kept_by(result, **options):
    return select(result.segments, SelectionConfig(consistency_scale="absolute", **options)).kept


@pytest.mark.slow
def test_the_adaptive_rule_is_more_faithful_than_the_papers_and_its_early_stop_is_at_half_the_cost(loaded):
    """Against 257 nodes: the published 50 nodes and ours."""
    model, tokenizer = loaded
    engines = {
        "paper": IntegratedGradients(model, rule="paper", evaluations=50, path="all"),
        "simpson": IntegratedGradients(model, rule="simpson", path="all"),
        "decision": IntegratedGradients(model, rule="simpson", stop="decision", path="all"),
    }
    fine = IntegratedGradients(model, rule="trapezoid", evaluations=257, path="all")
    error, other, spent = ({name: [] for name in engines} for _ in range(3))
    for _, sequence in sequences(tokenizer, every=16):
        arguments = (sequence.input_ids, sequence.target, sequence.segments)
        truth = fine.attribute(*arguments)
        for name, engine in engines.items():
            result = engine.attribute(*arguments)
            error[name].append(np.abs(result.tokens - truth.tokens).sum() / np.abs(truth.tokens).sum())
            other[name].append(np.mean(kept_by(result) != kept_by(truth)))
            spent[name].append(result.evaluations)
            assert result.stopped_by in ("nodes", "tolerance", "decision", "cap")
    assert np.mean(error["simpson"]) < np.mean(error["paper"]) / 2
    assert np.mean(error["decision"]) < np.mean(error["paper"])
    assert np.mean(spent["simpson"]) <= 64
    assert np.mean(spent["decision"]) < 40
    assert np.mean(other["simpson"]) <= np.mean(other["decision"]) <= np.mean(other["paper"])


@pytest.mark.slow
def test_the_default_rule_settles_near_a_fine_integral(loaded):
    """On the path of the reasoning, against 129 nodes; nothing of the rule was chosen on this model."""
    model, tokenizer = loaded
    default, agreement = IntegratedGradients(model), []
    fine = IntegratedGradients(model, rule="trapezoid", evaluations=129)
    for _, sequence in sequences(tokenizer, every=16):
        arguments = (sequence.input_ids, sequence.target, sequence.segments)
        result, truth = default.attribute(*arguments), fine.attribute(*arguments)
        assert result.stopped_by == "settled" and result.evaluations <= 32
        assert result.tokens @ truth.tokens > 0.9 * np.linalg.norm(result.tokens) * np.linalg.norm(truth.tokens)
        agreement.append(np.mean(kept_by(result, beta=1.0) == kept_by(truth, beta=1.0)))
    assert np.mean(agreement) > 0.85


def quality(loaded, engine, every, **options):
    """Selection quality on shipped traces of both settings; steps needed only through others are left out."""
    _, tokenizer = loaded
    compared = []
    for row, sequence in sequences(tokenizer, every):
        result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
        kept = kept_by(result, keep_first=0, keep_last=0, **options)
        compared.append((row["roles"], kept, result.segments.strength))
    return selection_quality(compared, world.DIRECT_ROLES, world.INDIRECT_ROLES)


@pytest.mark.slow
def test_useful_segments_are_stronger_than_redundant_ones(loaded):
    engine = IntegratedGradients(loaded[0], rule="midpoint", evaluations=16, path="reasoning")
    assert quality(loaded, engine, every=6).auc > 0.6


def test_confidence_gain_is_large_where_the_answer_is_settled(loaded):
    assert quality(loaded, SCORERS["confidence_gain"](loaded[0]), every=6).auc > 0.6


@pytest.mark.slow
def test_the_backward_sweep_finds_what_the_answer_rests_on(loaded):
    found = quality(loaded, BackwardSweep(loaded[0]), every=3, selection="threshold")
    paper = quality(loaded, IntegratedGradients(loaded[0], rule="midpoint", evaluations=16, path="all"), every=6)
    assert found.f1 > 0.85
    assert found.f1 > paper.f1 + 0.3


@pytest.mark.parametrize("setting", ["detours", "mixed"])
def test_the_counterfactual_sweep_also_finds_steps_needed_through_others(setting, loaded):
    """In a setting its constants were not chosen on; the model was never trained on `mixed`."""
    model, tokenizer = loaded
    rows = list(world.make_rows(setting, 12, split="test-of-rules"))
    found, evaluations = {}, []
    for cls in (BackwardSweep, CounterfactualSweep):
        engine, compared = cls(model), []
        for row in rows:
            sequence = attributed_sequence(build_trace(row), tokenizer)
            result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
            evaluations.append(result.evaluations)
            kept = kept_by(result, keep_first=0, keep_last=0, selection="threshold")
            compared.append((row["roles"], kept, result.segments.strength))
        found[cls.name] = {
            "direct": selection_quality(compared, world.DIRECT_ROLES, world.INDIRECT_ROLES),
            "indirect": selection_quality(compared, world.INDIRECT_ROLES, world.DIRECT_ROLES),
            "all": selection_quality(compared, world.USEFUL_ROLES),
        }
    marginal, counterfactual = found.values()
    assert counterfactual["indirect"].recall > marginal["indirect"].recall + 0.3
    assert counterfactual["all"].f1 > 0.78
    assert counterfactual["direct"].f1 > 0.82
    assert np.mean(evaluations) < 5


@pytest.mark.slow
def test_the_demo_runs_from_start_to_trained_model(tmp_path, capfd):
    cli.main(["demo", "--output_dir", str(tmp_path)])
    shown = capfd.readouterr().out
    assert "48 traces: 48 attributed" in shown
    assert re.search(r"kept \d+ of \d+ segments", shown)
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert '"token_values"' in (tmp_path / "trace.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--world", str(tmp_path)])
    assert stop.value.code == 2 and "clone the repository" in capfd.readouterr().err
