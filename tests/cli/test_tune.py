"""`trl-segment tune` and `trl-segment generate`, run as a user would, on files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.evaluation.outputs import pick_solutions
from trl_segment.store import AttributionStore


WORLD = REPOSITORY / "examples" / "tiny_world"


def lines(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, traces of which one cannot be attributed, and two stores with different baselines."""
    folder = tmp_path_factory.mktemp("tune")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(8))]
    rows[3]["answer"] = ""
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for name, baseline in (("first", "pad"), ("second", "mean")):
        rule = f"--attribution_rule midpoint --attribution_evaluations 4 --attribution_baseline {baseline}"
        data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / name}"
        cli.main(f"attribute --model_name_or_path {folder / 'model'} {data} {rule}".split())
    return folder


def line(folder, *arguments):
    return ["tune", *map(str, ["--dataset_name", folder / "traces.jsonl", "--keep_last", 0, *arguments])]


def tune(folder, *arguments):
    cli.main(line(folder, *arguments))


def test_a_sweep_over_two_stores(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    model = ("--model_name_or_path", folder / "model")
    out = ("--output_dir", tmp_path / "out", "--scales", "absolute", "rank")
    tune(folder, *model, "--attributions", folder / "first", folder / "second", *out)
    shown = capsys.readouterr().out
    assert "1 x the answer is empty: sum-3" in shown
    assert "Flatness:" in shown and "second, rank:" in shown and "Best pair of each" in shown
    # It ends with a verdict on each store
    first, second = shown.splitlines()[-2:]
    for store, line in (("first", first), ("second", second)):
        assert re.match(rf"{store}: (No pair|tau [\d.]+, beta) .*yours \(tau 0.7, beta 0.8, rank\)", line), line
    report = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert "resampled" not in report[0]
    assert [(Path(r["store"]).name, r["scale"], r["traces"]) for r in report] == [
        (store, scale, 7) for store in ("first", "second") for scale in ("absolute", "rank")
    ]
    assert np.shape(report[0]["gap"]) == (9, 9)
    assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")
    # The gains do not depend on the scores: one line a trace, not one a store, and the second run makes none
    assert len(lines(tmp_path / "out" / "gains.jsonl")) == 7
    monkeypatch.setattr("trl_segment.evaluation.confidence.answer_log_probs", None)
    tune(folder, *model, "--attributions", folder / "first", *out, "--taus", 0.5, 0.7, "--betas", 0.8, 1.0)
    report = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert np.shape(report[0]["gap"]) == (2, 2)


def test_gains_on_the_scale_of_probability(folder, tmp_path):
    pytest.importorskip("matplotlib")
    tune(
        folder, "--model_name_or_path", folder / "model", "--attributions", folder / "first", "--scales", "absolute",
        "--taus", 0.7, "--betas", 0.8, "--confidence", "probability", "--output_dir", tmp_path,
    )  # fmt: skip
    (report,) = json.loads((tmp_path / "tune.json").read_text())
    assert abs(report["gap"][0][0]) < 1
    gained = [np.exp(r["log_probs"][-1]) - np.exp(r["log_probs"][0]) for r in lines(tmp_path / "gains.jsonl")]
    assert np.max(np.abs(gained)) < 1


def test_comparison_of_two_stores(folder, capsys):
    compare = f"tune --attributions {folder / 'first'} --compare"
    cli.main(f"{compare} {folder / 'second'} --keep_first 0 --keep_last 0".split())
    shown = capsys.readouterr().out
    assert "7 traces in both" in shown and "attribution_baseline: first 'pad', second 'mean'" in shown
    cli.main(f"{compare} {folder / 'first'}".split())
    assert "rank correlation of strengths    1.00 [1.00, 1.00]" in capsys.readouterr().out


def test_bad_input(folder, tmp_path, refused):
    AttributionStore(tmp_path / "empty", AttributionStore(folder / "first").settings)
    refused("holds no attributed trace", line(folder, "--attributions", tmp_path / "empty"))
    first = ("--attributions", folder / "first")
    refused("--model_name_or_path is required", line(folder, *first, "--output_dir", tmp_path))
    refused("argument --scales: invalid choice: 'relative'", line(folder, *first, "--scales", "relative"))
    refused("--consistency_scale has no effect on a sweep", line(folder, *first, "--consistency_scale", "rank"))
    refused(
        "--dataset_name, --taus have no effect with --compare", line(folder, *first, "--compare", "x", "--taus", 1)
    )
    (tmp_path / "others.jsonl").write_text(json.dumps(make_rows(9)[8]) + "\n")
    refused(
        "no row of the dataset has scores",
        f"tune --attributions {folder / 'first'} --dataset_name {tmp_path / 'others.jsonl'} --model_name_or_path "
        f"{folder / 'model'} --output_dir {tmp_path}",
    )


def test_one_trace_is_swept_without_an_interval(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    tune(
        folder, "--model_name_or_path", folder / "model", "--attributions", folder / "first", "--max_traces", 1,
        "--output_dir", tmp_path,
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "(1 trace)" in shown
    assert re.search(r"(too few traces to say|No pair is compared with yours)[^\n]*\n$", shown)


def test_a_pair_that_is_not_swept_is_named(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    tune(
        folder, "--model_name_or_path", folder / "model", "--attributions", folder / "first", "--scales", "absolute",
        "--taus", 0.7, "--betas", 0.8, "--output_dir", tmp_path,
    )  # fmt: skip
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("No pair is compared with yours (tau 0.7, beta 0.8, rank), which is not among")


def test_the_shortest_correct_solution_is_picked():
    def record(name, sample, tokens, cut_off=False):
        text = f"solution of {tokens}"
        return {"id": name, "sample": sample, "question": name, "solution": text, "answer": "1", "tokens": tokens,
                "cut_off": cut_off}  # fmt: skip

    records = [
        [record("a", 0, 9), record("a", 1, 5), record("a", 2, 3), record("a", 3, 5)],
        [record("b", i, 4) for i in range(4)],
        [record("c", 0, 6, cut_off=True), *(record("c", i, 8) for i in (1, 2, 3))],
        [record("d", i, 2, cut_off=True) for i in range(4)],
    ]
    correct = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
    chosen, without = pick_solutions(records, correct)
    assert [(row["id"], row["tokens"]) for row in chosen] == [("a", 5), ("c", 8)]
    assert without == ["b", "d"]
    chosen, _ = pick_solutions(records, correct, "all")
    assert [(row["id"], row["tokens"]) for row in chosen] == [("a-0", 9), ("a-1", 5), ("c-1", 8)]


def test_generated_traces_are_correct_and_can_be_attributed(tmp_path, capsys):
    problems = [json.loads(line) for line in (WORLD / "problems.jsonl").read_text().splitlines()[:8]]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)) + "\n")
    command = ["generate", "--model_name_or_path", str(WORLD / "checkpoint"), "--samples", "3"]
    command += ["--problems", str(tmp_path / "problems.jsonl"), "--max_new_tokens", "1500"]
    command += ["--dataset", str(tmp_path / "own.jsonl"), "--seed", "1"]
    cli.main(command)
    shown = capsys.readouterr().out
    rows, outputs = lines(tmp_path / "own.jsonl"), lines(tmp_path / "own.outputs.jsonl")
    answers = {row["id"]: row["answer"] for row in problems}
    assert len(outputs) == 24
    assert 0 < len(rows) <= 8
    for row in rows:
        assert f"\\boxed{{{answers[row['id']]}}}" in row["solution"]
        right = [
            o["tokens"] for o in outputs if o["id"] == row["id"] and f"\\boxed{{{row['answer']}}}" in o["solution"]
        ]
        assert row["tokens"] == min(right)
    missing = [row["id"] for row in problems if row["id"] not in {r["id"] for r in rows}]
    assert all(name in shown for name in missing) and f"{len(rows)} traces" in shown
    before = (tmp_path / "own.outputs.jsonl").read_bytes()
    cli.main(command)
    assert (tmp_path / "own.outputs.jsonl").read_bytes() == before and lines(tmp_path / "own.jsonl") == rows
    data = f"--dataset_name {tmp_path / 'own.jsonl'} --attributions {tmp_path / 'store'}"
    rule = "--attribution_rule midpoint --attribution_evaluations 2"
    cli.main(f"attribute --model_name_or_path {WORLD / 'checkpoint'} {data} {rule}".split())
    assert f"{len(rows)} traces: {len(rows)} attributed" in capsys.readouterr().out
