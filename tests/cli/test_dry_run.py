"""What a command says that it would do, against what it then does; and the bar that it shows."""

import json
import re
import sys

import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment import AttributionStore
from trl_segment.cli import main as cli
from trl_segment.progress import progress_bar, show_rate


RULE = "--attribution_rule midpoint --attribution_evaluations 3"
TRAINING = "--use_cpu --bf16 False --report_to none --per_device_train_batch_size 2 --max_length 2000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(5))]
    rows[3]["answer"] = ""
    rows.append({**rows[0], "id": "again"})
    write_rows(folder / "few.jsonl", rows[:2])
    write_rows(folder / "traces.jsonl", rows)
    attribute(folder, "few.jsonl", "--progress False")
    return folder


def write_rows(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")


def attribute(folder, dataset, *options, store="store", rule=RULE):
    cli.main(
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / dataset} --attributions "
        f"{folder / store} {rule} {' '.join(options)}".split()
    )


def sft(folder, output, *options):
    cli.main(
        f"sft --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} --output_dir {output} "
        f"{TRAINING} {' '.join(options)}".split()
    )


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_attribute_does_what_its_dry_run_says(folder, capsys, monkeypatch):
    before = contents(folder)
    with monkeypatch.context() as patch:
        # No weight is read
        patch.setattr("trl_segment.models.load_model", None)
        attribute(folder, "traces.jsonl", "--dry-run")
    said = capsys.readouterr().out
    assert contents(folder) == before
    assert "6 traces: 2 to attribute" in said
    assert "2 in the store, 1 repeated, 1 not attributable" in said
    assert "1 x the answer is empty: sum-3" in said
    assert "At most, 3.0 gradient evaluations per trace" in said
    assert "As the traces of the store so far, 3.0" in said
    assert "an assumption" in said
    tokens = int(re.search(r"2 traces, ([\d,]+) tokens", said)[1].replace(",", ""))

    attribute(folder, "traces.jsonl", store="other")
    done = capsys.readouterr().out
    assert "6 traces: 4 attributed with 12 gradient evaluations" in done
    by_name = {row.name: row for row in AttributionStore(folder / "other").values()}
    assert tokens == by_name["sum-2"].sequence_tokens + by_name["sum-4"].sequence_tokens


def test_a_store_that_would_be_refused_is_named_beforehand(folder, capsys):
    attribute(folder, "traces.jsonl", "--dry-run", rule="--attribution_rule paper --segmenter paragraphs")
    said = capsys.readouterr().out
    assert "would be refused" in said
    assert "rule: stored 'midpoint', now 'paper'" in said
    assert "segmenter: stored 'keywords', now 'paragraphs'" in said
    assert "attribution_tolerance" not in said
    attribute(folder, "traces.jsonl", "--dry-run", store="new", rule="--attribution_scorer perplexity")
    said = capsys.readouterr().out
    assert "5 to attribute" not in said
    assert "its cost is not estimated" in said
    assert not (folder / "new").exists()


def test_sft_does_what_its_dry_run_says(folder, tmp_path, capsys):
    attribute(folder, "traces.jsonl", store="full")
    options = f"--attributions {folder / 'full'} --num_train_epochs 2 --tau 0.3 --keep_last 0 --logging_steps 1"
    capsys.readouterr()
    sft(folder, tmp_path / "out", options, "--dry-run")
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    sft(folder, tmp_path / "out", options, "--save_strategy epoch --gradient_accumulation_steps 1")
    done = capsys.readouterr().out
    kept = re.search(r"([\d,]+) of ([\d,]+) segments .* ([\d,]+) of ([\d,]+) reasoning tokens", said).groups()
    assert kept[:2] == re.search(r"segments kept +([\d,]+) of ([\d,]+)", done).groups()
    assert kept[2:] == re.search(r"reasoning tokens +([\d,]+) of ([\d,]+)", done).groups()
    checkpoints = [int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*")]
    assert f"Training: {max(checkpoints)} steps of 2 sequences (2.0 epochs)" in said
    total = max(int(float(tokens)) for tokens in re.findall(r"'num_tokens': '([\d.e+]+)'", done))
    assert f"Training on 6 traces, {total // 2:,} tokens" in said


def test_sft_without_a_store_plans_its_attribution(folder, tmp_path, capsys):
    sft(folder, tmp_path / "out", RULE, "--dry-run --num_processes 4 --max_steps 3 --max_length 100")
    said = capsys.readouterr().out
    assert "6 traces longer than max_length 100 would be cut" in said
    assert "the model attributes the traces" in said
    assert "6 traces: 4 to attribute" in said
    assert "Hours are for 4 x H100" in said
    assert "Training: 3 steps of 8 sequences (4.0 epochs)" in said


def test_traces_that_the_store_lacks_are_named_beforehand(folder, tmp_path, capsys, refused):
    attribute(folder, "few.jsonl", store="two")
    sft(folder, tmp_path / "out", f"--attributions {folder / 'two'}", "--dry-run")
    said = capsys.readouterr().out
    assert "2 traces not in that store, so training would be refused: sum-2, sum-4" in said
    assert not (tmp_path / "out").exists()
    line = f"sft --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} --output_dir"
    refused(
        "2 of 6 traces have no attribution", f"{line} {tmp_path / 'out'} {TRAINING} --attributions {folder / 'two'}"
    )


def test_the_bar_is_quiet_where_nobody_looks(folder, capsys):
    attribute(folder, "few.jsonl", store="quiet")
    assert "Attributing" not in capsys.readouterr().err
    attribute(folder, "few.jsonl", "--progress True", store="asked")
    shown = capsys.readouterr().err
    last = shown.split("\r")[-1]
    assert "Attributing" in last
    assert "2/2" in last
    assert re.search(r"[\d,]+ tokens/s, 3\.0 evaluations/trace", last)
    assert "<" in last  # elapsed<left


def test_a_disabled_bar_still_counts():
    bar = progress_bar(range(3), "Counting", shown=False)
    for item in bar:
        show_rate(bar, item, item, item)


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress_bar(range(3), "Counting", unit="row")
    for item in bar:
        show_rate(bar, 10, 6, 2)
        del item
    assert "3.0 evaluations/row" in capsys.readouterr().err


def test_evaluation_says_what_models_would_be_asked(tmp_path, capsys):
    """No such model exists: nothing but the problems is read."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(f'{{"id": "{i}", "question": "{i} + 1?", "answer": "{i + 1}"}}\n' for i in range(3)))
    evaluate = f"evaluate --models a=nowhere/a b=nowhere/b --problems {problems} --samples 4 --temperature 0.6"
    generate = f"generate --model_name_or_path nowhere/a --problems {problems} --samples 4"
    for command, models, tokens in ((evaluate, 2, 2400), (generate, 1, 1200)):
        cli.main([*command.split(), "--max_new_tokens", "100", "--dry-run", "--batch_size", "1"])
        printed = capsys.readouterr().out
        assert "3 problems x 4 outputs" in printed
        assert f"{models} x 12 outputs" in printed and f"{tokens:,} tokens" in printed
    assert sorted(tmp_path.iterdir()) == [problems]


def test_another_threshold_of_a_sweep_would_be_refused(folder, capsys, refused):
    rule = "--attribution_scorer marginal --attribution_threshold"
    attribute(folder, "few.jsonl", store="marginal", rule=f"{rule} 0.25")
    capsys.readouterr()
    attribute(folder, "few.jsonl", "--dry-run", store="marginal", rule=f"{rule} 0.5")
    said = capsys.readouterr().out
    assert "would be refused" in said and "attribution_threshold: stored 0.25, now 0.5" in said
    attribute(folder, "few.jsonl", "--dry-run", store="marginal", rule=f"{rule} 0.25")
    assert "2 in the store" in capsys.readouterr().out
    model = f"--model_name_or_path {folder / 'model'} --dataset_name {folder / 'few.jsonl'}"
    refused(
        "attribution_threshold: stored 0.25, now 0.5",
        f"attribute {model} --attributions {folder / 'marginal'} {rule} 0.5",
    )


def test_sft_says_what_a_draw_would_train(folder, tmp_path, capsys):
    attribute(folder, "traces.jsonl", store="drawn")
    options = f"--attributions {folder / 'drawn'} --tau 0.3 --keep_last 0 --dry-run"
    said = []
    for selection in ("attribution", "random"):
        capsys.readouterr()
        sft(folder, tmp_path / "out", options, f"--selection {selection}")
        said.append(re.search(r"([\d,]+) of ([\d,]+) segments", capsys.readouterr().out).groups())
    assert said[0] == said[1]
