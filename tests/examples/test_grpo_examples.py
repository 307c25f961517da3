"""The tasks of the GRPO examples, and the study on a handful of completions. The script runs on the docs' own page."""

import json
import runpy
import sys
import types

import pytest
from helpers import REPOSITORY


FOLDER = REPOSITORY / "examples" / "grpo"
sys.path.insert(0, str(FOLDER))

import tasks  # noqa: E402


def said(text):
    return [{"role": "assistant", "content": text}]


def test_the_tiny_world_rewards_right_answers():
    rows, reward = tasks.tiny_world("repetition", 3, "test-of-tasks")
    right = rows[0]["answer"]
    completions = [
        f"<think>\n{right}\n</think>\n\nThe table gives \\boxed{{{right}}}.",
        "<think>\nx\n</think>\n\nThe table gives \\boxed{\\text{alpha=ruby}}.",
        f"<think>\n\\boxed{{{right}}}",
        "",
    ]
    assert reward(completions=list(map(said, completions)), answer=[right] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert len({row["prompt"][0]["content"] for row in rows}) == 3


def test_reasoning_gym_scores_by_its_own_verifier(monkeypatch):
    class Problems(list):
        def score_answer(self, answer, entry):
            return 1.0 if answer == entry["answer"] else 0.25 if answer else 0.0

    module = types.ModuleType("reasoning_gym")
    asked = []

    def create_dataset(name, size, seed):
        asked.append((name, size, seed))
        return Problems({"question": f"{i} + 1?", "answer": str(i + 1), "metadata": {i: None}} for i in range(size))

    module.create_dataset = create_dataset
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)
    rows, reward = tasks.reasoning_gym("chain_sum", 3, 7)
    assert asked == [("chain_sum", 3, 7)]
    assert rows[1]["prompt"][0]["content"].startswith("1 + 1?\nPlease reason step by step")
    completions = [said(r"<think>x</think> \boxed{2}"), said(r"<think>x</think> \boxed{4}"), said("<think>no")]
    assert reward(completions=completions, number=[*rows["number"][1:3], 0]) == [1.0, 0.25, 0.0]


def test_reasoning_gym_itself():
    pytest.importorskip("reasoning_gym")
    rows, reward = tasks.reasoning_gym("chain_sum", 2, 7)
    assert len(rows) == 2
    assert reward(completions=[said(r"\boxed{x}")] * 2, number=rows["number"]) == [0.0, 0.0]


def test_the_study_runs(tmp_path, monkeypatch, capsys):
    arguments = ["study.py", "--quick", "--output_dir", str(tmp_path), "--arms", "grpo", "marginal"]
    monkeypatch.setattr(sys, "argv", arguments)
    study = runpy.run_path(str(FOLDER / "study.py"))["main"]
    study()
    printed = capsys.readouterr().out
    for arm in ("base", "grpo", "marginal"):
        assert f"| {arm} |" in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["outcomes"]) == {"base", "grpo", "marginal"}
    assert len(results["training"]["grpo, reward"][0]) == 2
    assert 0 < results["training"]["marginal, share_of_step"] < 1
    # What is there is not made again
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("figures.json")}
    study()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("figures.json")} == made
