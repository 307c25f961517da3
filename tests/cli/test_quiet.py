"""`--quiet`: results, warnings and errors are left, and nothing else."""

import json
import logging
import os
import sys

import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.progress import is_quiet, progress_bar, quiet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(4))]
    rows[3]["answer"] = ""
    rows[3]["solution"] = "no reasoning, no box"
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    cli.main([*attribute(folder, folder / "store"), "--quiet"])
    return folder


def attribute(folder, store):
    return (
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {store} --attribution_rule midpoint --attribution_evaluations 2"
    ).split()


def run(capsys, *words):
    capsys.readouterr()
    cli.main([str(word) for word in words])
    return capsys.readouterr()


def test_attribute_merge_and_report_do_their_work_without_a_word(folder, tmp_path, capsys, caplog):
    """The log says all the same what was left out."""
    with caplog.at_level(logging.WARNING):
        shown = run(capsys, *attribute(folder, tmp_path / "store"), "--progress", "True", "--quiet")
    assert shown == ("", "")
    assert "the answer is empty" in caplog.text
    loud = run(capsys, *attribute(folder, tmp_path / "store"), "--progress", "True")
    assert "4 traces: 0 attributed" in loud.out and "Attributing" in loud.err
    merge = ["merge", "--stores", folder / "store", "--attributions", tmp_path / "merged"]
    assert run(capsys, "--quiet", *merge) == ("", "")
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    report = ["report", "--attributions", tmp_path / "merged", "--output_dir", tmp_path / "report"]
    data = ["--dataset_name", folder / "traces.jsonl"]
    assert run(capsys, *report, *data, "--quiet") == ("", "")
    assert (tmp_path / "report" / "index.html").exists()
    # What a page lacks is no progress
    shown = run(capsys, *report, "--quiet")
    assert shown.out == "" and "since the store holds no text" in shown.err


def test_results_stay(folder, tmp_path, capsys):
    pytest.importorskip("rich")
    data = ["--dataset_name", folder / "traces.jsonl", "--attributions", folder / "store"]
    inspect = ["inspect", *data, "--trace", "sum-1", "--color", "False"]
    assert run(capsys, *inspect, "--quiet") == run(capsys, *inspect)
    rows = [{"question": "1 + 1?", "solution": "<think>\nsum\n</think>\n\n\\boxed{2}", "answer": "2"}]
    (tmp_path / "outputs.jsonl").write_text(json.dumps(rows[0]) + "\n")
    evaluate = ["evaluate", "--outputs", tmp_path / "outputs.jsonl", "--json", tmp_path / "figures.json"]
    loud, still = run(capsys, *evaluate).out, run(capsys, *evaluate, "--quiet").out
    assert still and loud.startswith(still) and "figures.json" in loud and "figures.json" not in still


def test_training_shows_neither_bars_nor_logs(folder, tmp_path, capsys):
    sft = (
        f"sft --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} --max_steps 2 "
        f"--logging_steps 1 --attributions {folder / 'store'} --bf16 False --use_cpu --report_to none --max_length 512"
    ).split()
    shown = run(capsys, *sft, "--output_dir", tmp_path / "out", "--quiet")
    assert "'loss'" not in shown.out and "Model saved" not in shown.out
    # What is trained in full is no progress
    assert "1 x the answer is empty: sum-3" in shown.out
    assert "%|" not in shown.err
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2]


def test_errors_stay(tmp_path, refused):
    refused("no attribution store", ["report", "--quiet", "--attributions", tmp_path / "nothing"])
    assert not is_quiet()


def test_libraries_are_as_before_afterwards(monkeypatch):
    import datasets
    import huggingface_hub
    from transformers.utils import logging as transformers_logging

    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    switches = (
        lambda: not datasets.are_progress_bars_disabled(),
        lambda: not huggingface_hub.utils.are_progress_bars_disabled(),
        transformers_logging.is_progress_bar_enabled,
    )
    before = [switch() for switch in switches]
    with quiet():
        assert [switch() for switch in switches] == [False] * 3
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1" and is_quiet()
        with quiet():
            pass
        assert is_quiet() and progress_bar([1], "x", shown=True).disable
    assert [switch() for switch in switches] == before
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ and not is_quiet()
    assert not progress_bar([1], "x", shown=True).disable


def test_quiet_needs_no_library_to_be_loaded():
    assert "trl_segment.progress" in sys.modules
    with quiet(False):
        assert not is_quiet()
