"""`trl-segment export`: files of every format, and what it leaves alone."""

import json

import datasets
import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"r{i}", **row} for i, row in enumerate(make_rows(4))]
    rows[3]["solution"] = "No reasoning and no answer."
    rows[3]["answer"] = None
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = "attribute --attribution_rule midpoint --attribution_evaluations 2 --dtype float32"
    names = {"model_name_or_path": "model", "dataset_name": "traces.jsonl", "attributions": "store"}
    paths = [word for option, name in names.items() for word in (f"--{option}", str(folder / name))]
    cli.main([*line.split(), *paths])
    # Only the tokenizer is read
    (folder / "model" / "model.safetensors").unlink()
    return folder


def words(world, output, *more):
    line = ["export", "--model_name_or_path", world / "model", "--dataset_name", world / "traces.jsonl"]
    return [str(word) for word in [*line, "--attributions", world / "store", "--output", output, *more]]


def test_every_form_of_a_file_holds_the_same_rows(world, tmp_path, capsys):
    ends = ("--keep_first", 0, "--keep_last", 0)
    cli.main(words(world, tmp_path / "rows.jsonl", *ends))
    shown = capsys.readouterr().out
    assert "trained in full           1 traces" in shown and ": r3" in shown
    assert "4 rows in " in shown and "0 rows refused." in shown
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert all(set(line) == {"input_ids", "attention_mask", "labels"} for line in lines)
    edges = [
        sum((a == -100) != (b == -100) for a, b in zip(x["labels"], x["labels"][1:], strict=False)) for x in lines
    ]
    assert min(edges[:3]) > 1 == edges[3], "parts of a completion, but for the trace that is trained in full"
    text = tiny_tokenizer().decode([label for label in lines[3]["labels"] if label != -100])
    assert text == "No reasoning and no answer.<|im_end|>"
    cli.main(words(world, tmp_path / "rows.parquet", *ends))
    cli.main(words(world, tmp_path / "folder", *ends))
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    for rows in (parquet, datasets.load_from_disk(str(tmp_path / "folder"))):
        assert rows.to_list() == lines
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "rows.parquet", "folder", "cache"}


@pytest.mark.parametrize("form", ["axolotl", "ms-swift"])
def test_messages_can_be_loaded_as_a_dataset(form, world, tmp_path, capsys):
    cli.main(words(world, tmp_path / "rows.jsonl", "--format", form))
    assert "0 rows refused." in capsys.readouterr().out
    rows = datasets.Dataset.from_json(str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
    contents = [message["content"] for message in rows[0]["messages"] if message["role"] == "assistant"]
    if form == "axolotl":
        ((*parts,),) = contents
        contents = [part["text"] for part in parts]
    assert "".join(contents) == make_rows(1)[0]["solution"]


def test_weights_without_options_are_the_mask(world, tmp_path):
    cli.main(words(world, tmp_path / "labels.jsonl"))
    cli.main(words(world, tmp_path / "weights.jsonl", "--format", "weights"))
    pairs = zip(
        *((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("labels", "weights")), strict=True
    )
    for labels, weights in (map(json.loads, pair) for pair in pairs):
        assert weights["weights"] == [float(label != -100) for label in labels["labels"]]


def test_rows_are_refused_by_name_and_without_any_nothing_is_written(world, tmp_path, capsys, refused):
    data = tmp_path / "text.jsonl"
    rows = [json.loads(line) for line in (world / "traces.jsonl").read_text().splitlines()]
    rows = [{"id": r["id"], "prompt": r["question"], "completion": r["solution"], "answer": "1"} for r in rows[:2]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = words(world, tmp_path / "rows.jsonl", "--format", "axolotl", "--selection", "all", "--dataset_name", data)
    refused("no row can be written as 'axolotl'", line)
    assert not (tmp_path / "rows.jsonl").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.jsonl"]


def test_what_is_there_is_not_written_over(world, tmp_path, refused):
    (tmp_path / "mine.jsonl").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    for name in ("mine.jsonl", "folder", "link.jsonl"):
        refused("is there already", words(world, tmp_path / name))
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        ("--format axolotl --max_length 9", "--max_length has no effect with --format axolotl"),
        ("--format ms-swift --completion_rendering verbatim", "--completion_rendering has no effect"),
        ("--dropped_weight 0.5", "--dropped_weight has no effect with --format labels"),
        ("--format weights --dropped_weight 2", "`dropped_weight` must be in"),
        ("--max_length 0", "must be at least 1"),
        ("--output rows.csv", "ends in .jsonl or .parquet"),
        ("--format axolotl --output rows.parquet", "ends in .jsonl"),
        ("--format sharegpt", "invalid choice"),
    ],
)
def test_lines_that_cannot_work_are_refused(more, pattern, world, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    refused(pattern, words(world, "rows.jsonl", *more.split()))
    assert list(tmp_path.iterdir()) == []
