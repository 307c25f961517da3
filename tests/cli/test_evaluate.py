"""`trl-segment evaluate`, run as a user would, on files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.evaluation.outputs import read_problems
from trl_segment.traces import TraceConfig, build_trace
from trl_segment.traces.alignment import render_prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models and a problem file; the problems carry solutions, as some benchmarks do."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = tiny_tokenizer()
    for name, seed in (("first", 0), ("second", 1)):
        tiny_model(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [{"id": i, **row} for i, row in enumerate(make_rows(8))]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def line(folder, *arguments):
    return ["evaluate", "--problems", str(folder / "sums.jsonl"), "--max_new_tokens", "40", *map(str, arguments)]


def run(folder, *arguments):
    cli.main(line(folder, *arguments))


def lines(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def write_outputs(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(file)


def test_outputs_made_elsewhere_are_graded_in_row_order(tmp_path, capsys):
    rows = [
        {"question": "1+1?", "solution": r"<think>hm</think> \boxed{2}", "answer": 2.0},
        {"question": "1+2?", "solution": r"\boxed{4}", "answer": "3"},
        {"question": "half?", "solution": r"\boxed{\frac{1}{2}}", "answer": "0.5"},
        {"question": "broken?", "solution": r"\boxed{\frac{1}{", "answer": "0.5"},
    ]
    file = write_outputs(tmp_path / "made.jsonl", rows)
    cli.main(["evaluate", "--outputs", file, "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [row["correct"] for row in report["rows"]] == [True, False, True, False]
    assert [row["verdict"] for row in report["rows"]] == ["correct", "wrong", "correct", "no answer"]
    assert report["models"]["made"]["all"]["accuracy"]["value"] == 0.5
    assert "accuracy 50.0 [" in capsys.readouterr().out


def test_several_outputs_of_a_problem_and_two_files(tmp_path, capsys):
    right, wrong = r"\boxed{2}", r"\boxed{3}"
    made = [("a", right), ("b", wrong), ("a", wrong), ("b", wrong)]
    rows = [{"id": i, "question": i, "solution": s, "answer": "2"} for i, s in made]
    first = write_outputs(tmp_path / "first.jsonl", rows)
    rows = [{"id": i, "question": i, "solution": right, "answer": "2"} for i, _ in made]
    second = write_outputs(tmp_path / "second.jsonl", rows)
    cli.main(["evaluate", "--outputs", first, second, "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [row["correct"] for row in report["rows"]] == [True, False, False, False] + [True] * 4
    figures = report["models"]["first"]["all"]
    assert (figures["problems"], figures["samples"], figures["pass_at"]["2"]["value"]) == (2, 2, 0.5)
    (difference,) = report["differences"]
    assert (difference["model"], difference["minus"], difference["accuracy"]["value"]) == ("second", "first", 0.75)


def test_an_output_is_never_graded_against_itself(tmp_path, refused):
    file = write_outputs(tmp_path / "made.jsonl", [{"id": "x", "question": "?", "solution": r"\boxed{2}"}])
    refused("x has no right answer in the column 'answer'", ["evaluate", "--outputs", file])
    with pytest.raises(ValueError, match="Problem 'x' has no answer"):
        read_problems([{"id": "x", "question": "?", "solution": r"\boxed{2}"}])


def test_models_are_evaluated_and_outputs_kept(folder, tmp_path, capsys):
    run(
        folder,
        "--models",
        folder / "first",
        folder / "second",
        "--output_dir",
        tmp_path,
        "--json",
        tmp_path / "f.json",
    )
    report = json.loads((tmp_path / "f.json").read_text())
    assert list(report["models"]) == ["first", "second"]
    assert [row["id"] for row in report["rows"]] == [str(i) for i in range(8)] * 2
    tokenizer = tiny_tokenizer()
    by_id = {record["id"]: record for record in lines(tmp_path / "first" / "sums.greedy.jsonl")}
    # The prompt is the one that attribution and training have
    rows = [json.loads(line) for line in (folder / "sums.jsonl").read_text().splitlines()]
    prompt = render_prompt(build_trace(rows[3]), tokenizer)
    assert "Please reason step by step" in prompt
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    expected = tiny_model(tokenizer).generate(ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :].tolist()
    assert by_id["3"]["solution"] == tokenizer.decode(expected, skip_special_tokens=True)
    assert by_id["3"]["tokens"] == len(expected)
    assert by_id["3"]["question"] == rows[3]["question"] and by_id["3"]["answer"] == rows[3]["answer"]
    assert "second minus first" in capsys.readouterr().out


def test_a_run_goes_on_where_it_stopped(folder, tmp_path):
    sampled = ("--models", folder / "first", "--samples", 2, "--temperature", 0.8, "--output_dir")
    run(folder, *sampled, tmp_path / "whole")
    run(folder, *sampled, tmp_path / "torn", "--batch_size", 3)
    whole = tmp_path / "whole" / "first" / "sums.T0.8-p1-seed0.jsonl"
    torn = tmp_path / "torn" / "first" / "sums.T0.8-p1-seed0.jsonl"
    content = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(content[:5]) + content[5][:40])
    run(folder, *sampled, tmp_path / "torn")
    key = lambda record: (record["id"], record["sample"])  # noqa: E731
    assert sorted(lines(torn), key=key) == sorted(lines(whole), key=key)
    assert lines(torn)[:5] == [json.loads(line) for line in content[:5]]
    assert len(lines(torn)) == 16
    # A damaged line in the middle costs itself only
    content = torn.read_bytes().splitlines(keepends=True)
    content[7] = b"\0" * 30 + b"\n"
    torn.write_bytes(b"".join(content))
    run(folder, *sampled, tmp_path / "torn")
    mended = torn.read_bytes().splitlines(keepends=True)
    assert len(mended) == 17
    torn.write_bytes(b"".join(mended[:7] + mended[8:]))
    assert sorted(lines(torn), key=key) == sorted(lines(whole), key=key)
    before = torn.stat().st_mtime_ns
    run(folder, *sampled, tmp_path / "torn", "--json", tmp_path / "f.json")
    assert torn.stat().st_mtime_ns == before
    # More samples only add
    run(folder, "--models", folder / "first", "--samples", 3, "--temperature", 0.8, "--output_dir", tmp_path / "torn")
    assert len(lines(torn)) == 24


def test_a_killed_run_keeps_what_had_ended(folder, tmp_path):
    # No output ends by itself within a minute: one at a time they reach the limit
    command = [sys.executable, "-m", "trl_segment.cli.main", "evaluate", "--models", str(folder / "first")]
    command += ["--problems", str(folder / "sums.jsonl"), "--max_new_tokens", "150", "--output_dir", str(tmp_path)]
    command += ["--batch_size", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = tmp_path / "first" / "sums.greedy.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not (file.exists() and file.stat().st_size):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = lines(file)
    assert kept
    cli.main([*command[3:], "--batch_size", "8"])
    assert lines(file)[: len(kept)] == kept
    assert sorted(record["id"] for record in lines(file)) == [str(i) for i in range(8)]


def test_outputs_of_other_weights_are_refused(folder, tmp_path, refused):
    run(folder, "--models", f"m={folder / 'first'}", "--output_dir", tmp_path)
    options = ("--output_dir", tmp_path)
    refused("made with other settings: weights: then", line(folder, "--models", f"m={folder / 'second'}", *options))
    options = (*options, "--max_new_tokens", 41)
    refused("max_new_tokens: then 40, now 41", line(folder, "--models", f"m={folder / 'first'}", *options))


def test_an_adapter_is_evaluated_on_its_base_model(folder, tmp_path):
    peft = pytest.importorskip("peft")
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    model.name_or_path = model.config._name_or_path = str(folder / "first")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    out = tmp_path / "out"
    run(folder, "--models", tmp_path / "adapter", tmp_path / "merged", folder / "first", "--output_dir", out)
    adapter, merged, base = (
        {record["id"]: record["solution"] for record in lines(out / name / "sums.greedy.jsonl")}
        for name in ("adapter", "merged", "first")
    )
    assert adapter == merged != base


def test_prompts_can_be_changed(folder, tmp_path):
    (tmp_path / "template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<go>")
    rows = [json.loads(line) for line in (folder / "sums.jsonl").read_text().splitlines()]
    (problem,) = read_problems(rows[:1], TraceConfig(question_template="Q: {question} A:"))
    assert problem.trace.prompt == [{"role": "user", "content": f"Q: {rows[0]['question']} A:"}]
    options = ("--question_template", "Q: {question} A:", "--chat_template_path", tmp_path / "template.jinja")
    run(folder, "--models", folder / "first", "--output_dir", tmp_path, "--max_problems", 1, *options)
    tokenizer = tiny_tokenizer()
    ids = tokenizer(f"<user>Q: {rows[0]['question']} A:<go>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = tiny_model(tokenizer).generate(ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :]
    (record,) = lines(tmp_path / "first" / "sums.greedy.jsonl")
    assert record["solution"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_bad_arguments(folder, tmp_path, refused):
    refused(r"pass either --models \(and --problems\) or --outputs", "evaluate")
    refused("--problems is required", "evaluate --models x")
    model = ("--models", folder / "first", "--output_dir", tmp_path)
    refused("2 outputs per problem at temperature 0 would all be the same", line(folder, *model, "--samples", 2))
    refused("needs vLLM", line(folder, *model, "--backend", "vllm"))
    refused("two of them are called 'm'", line(folder, "--models", "m=a", "m=b", "--output_dir", tmp_path))
    refused(
        "--samples, --temperature have no effect on --outputs",
        "evaluate --outputs x --samples 2 --temperature 0.6",
    )
    with pytest.raises(ValueError, match="Two problems have the id 'a'"):
        read_problems([{"id": "a", "question": "x", "answer": 1}, {"id": "a", "question": "y", "answer": 1}])
    with pytest.raises(ValueError, match="no problem"):
        read_problems([])
