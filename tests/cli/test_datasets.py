"""Datasets with columns of their own through the commands, and what a dry run shows of a dataset."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment import AttributionStore
from trl_segment.cli import main as cli
from trl_segment.cli.arguments import AttributionModelArguments


RULE = "--attribution_rule midpoint --attribution_evaluations 2"
COLUMNS = "--question_column ask --reasoning_column why --response_column say --answer_column right"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    known, own = [], []
    for row in make_rows(3):
        why, _, say = row["solution"].removeprefix("<think>\n").partition("\n</think>\n\n")
        known.append({"question": row["question"], "reasoning": why, "response": say, "answer": row["answer"]})
        own.append({"ask": row["question"], "why": why, "say": say, "right": row["answer"]})
    write(folder / "known.jsonl", known)
    write(folder / "own.jsonl", own)
    return folder


def write(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")


def attribute(folder, dataset, *options, store="scores"):
    cli.main(
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / dataset} --attributions "
        f"{folder / store} {RULE} {' '.join(options)}".split()
    )


def test_named_columns_go_the_whole_way(folder, tmp_path, capsys):
    attribute(folder, "known.jsonl", store="known")
    attribute(folder, "own.jsonl", COLUMNS, store="own")
    known, own = AttributionStore(folder / "known"), AttributionStore(folder / "own")
    assert [row.key for row in own.values()] == [row.key for row in known.values()]
    assert (own.settings.reasoning_column, known.settings.reasoning_column) == ("why", None)
    # Who reads the store reads rows as it was made
    capsys.readouterr()
    cli.main(f"inspect --dataset_name {folder / 'own.jsonl'} --attributions {folder / 'own'}".split())
    assert "I need to add 3 and 11" in capsys.readouterr().out
    training = tmp_path / "sft.yaml"
    options = {"ask": "question_column", "why": "reasoning_column", "say": "response_column", "right": "answer_column"}
    training.write_text("".join(f"{option}: {name}\n" for name, option in options.items()))
    cli.main(
        f"sft --config {training} --model_name_or_path {folder / 'model'} --dataset_name {folder / 'own.jsonl'} "
        f"--attributions {folder / 'own'} --output_dir {tmp_path / 'out'} --use_cpu --bf16 False --report_to none "
        "--max_steps 1".split()
    )
    assert "| `reasoning_column` | `why` |" in (tmp_path / "out" / "README.md").read_text()


def test_a_dry_run_shows_a_row_and_the_ways_of_reading(folder, capsys):
    rows = [json.loads(line) for line in (folder / "known.jsonl").read_text().splitlines()]
    whole = {"question": "2 + 3?", "solution": "<think>Five.</think>It is \\boxed{5}."}
    write(folder / "mixed.jsonl", [*rows, whole])
    attribute(folder, "mixed.jsonl", "--dry_run", store="none")
    said = capsys.readouterr().out
    assert (
        "  3 x 'question' and 'reasoning' and 'response'; reasoning in a field of its own; answer from 'answer'\n"
        "  1 x 'question' and 'solution'; reasoning up to </think>; answer from the response\n"
    ) in said
    shown = said.split("row 0 as it is read")[1].splitlines()[1:6]
    assert [line.split(maxsplit=1)[0] for line in shown] == ["prompt", "reasoning", "response", "answer", "segments"]
    prompt, reasoning, response, answer, segments = (line.split(maxsplit=1)[1] for line in shown)
    assert prompt == "What is 3 + 11? (problem 0) " + (
        "Please reason step by step, and put your final answer within \\boxed{}."
    )
    first, last = reasoning.split(" ... ")
    flat = " ".join(rows[0]["reasoning"][:80].split())
    assert first == flat and rows[0]["reasoning"].endswith(last[-20:])
    assert (response, answer) == (rows[0]["response"], rows[0]["answer"])
    assert segments == "3"
    for precision in ("bfloat16", "float32"):
        line = next(line for line in said.splitlines() if line.startswith(f"  {precision}"))
        assert "hours; fits in 80 GB: yes" in line
    assert "float32 (this run's precision)" in said


@pytest.mark.parametrize("options", [["--dry_run"], []])
def test_a_dataset_whose_response_lies_inside_the_reasoning_is_refused(folder, refused, options):
    write(
        folder / "unmarked.jsonl",
        [{"question": "2 + 3?", "solution": "First this.\n\nWait, then that.\n\nHence so.", "answer": "5"}] * 2,
    )
    line = (
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'unmarked.jsonl'} --attributions "
        f"{folder / 'refused'} {RULE} {' '.join(options)}"
    )
    refused("none of 2 rows has marks of reasoning .* Set --reasoning_end", line)
    refused(
        "none of 2 rows has marks of reasoning .* Set --reasoning_end",
        f"sft --model_name_or_path {folder / 'model'} --dataset_name {folder / 'unmarked.jsonl'} --output_dir "
        f"{folder / 'out'} --use_cpu --bf16 False --report_to none {' '.join(options)}",
    )
    assert not (folder / "out").exists()
    # Whoever says that there is no response is believed
    attribute(folder, "unmarked.jsonl", "--reasoning_start=", *options, store=f"said{len(options)}")


def test_a_column_that_is_not_there_is_named(folder, refused):
    line = f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'own.jsonl'} --attributions x"
    refused("row 0: `solution_column` is 'sya', and the row has no such column", f"{line} --solution_column sya")
    refused("Name the columns with `question_column`", line)


@pytest.mark.parametrize(("device", "precision"), [("cpu", "float32"), ("cuda", "auto")])
def test_attribution_takes_the_checkpoints_precision_on_an_accelerator(monkeypatch, device, precision):
    state = SimpleNamespace(device=torch.device(device))
    monkeypatch.setattr("trl_segment.models.process_state", lambda: state)
    assert AttributionModelArguments().precision == precision
    assert AttributionModelArguments(dtype="bfloat16").precision == "bfloat16"


def test_hours_by_precision_are_those_of_the_data_sheet(folder, capsys):
    """An H100 makes 989 / 67 times as many products a second in bfloat16 as in float32."""
    attribute(folder, "known.jsonl", "--dry_run", "--attribution_evaluations 1000000000000", store="none")
    said = capsys.readouterr().out
    hours = dict(re.findall(r"^  (\w+)(?: \(.*?\))?: at most ([\d,.]+) hours", said, re.MULTILINE))
    bfloat16, float32 = (float(hours[name].replace(",", "")) for name in ("bfloat16", "float32"))
    assert bfloat16 > 1
    assert float32 / bfloat16 == pytest.approx(989 / 67, rel=0.01)
