"""Stores whose segments a function of the user's has cut: which commands read them, and what they ask for."""

import json

import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.store import AttributionStore


SEGMENTER = """
import re


def by_sentence(text):
    return [piece for piece in re.split(r"(?<=[.:])(?=\\s)", text) if piece]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmenters")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "cut.py").write_text(SEGMENTER)
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(3))]
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    attribute(folder, "store", f"--segmenter {folder / 'cut.py'}:by_sentence")
    attribute(folder, "plain", "")
    store = AttributionStore(folder / "store")
    rows = [{**row, "roles": roles_of(store, row["id"])} for row in rows]
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def roles_of(store, name):
    (row,) = [row for row in store.values() if row.name == name]
    return ["useful" if i % 2 else "filler" for i in range(len(row.num_tokens))]


def attribute(folder, store, options):
    cli.main(
        f"attribute --model_name_or_path {folder / 'model'} --dataset_name {folder / 'traces.jsonl'} --attributions "
        f"{folder / store} --attribution_rule midpoint --attribution_evaluations 2 {options}".split()
    )


def lines(folder, tmp_path):
    data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / 'store'}"
    return {
        "report": f"report {data} --output_dir {tmp_path / 'report'}",
        "quality": f"quality {data}",
        "inspect": f"inspect {data} --trace sum-1 --color False",
        "page": f"inspect {data} --html {tmp_path / 'page.html'} --model_name_or_path {folder / 'model'}",
        "tune": f"tune {data} --model_name_or_path {folder / 'model'} --output_dir {tmp_path / 'tune'} --taus 0.5 "
        "--betas 0.9 --scales absolute",
    }


@pytest.mark.parametrize("command", ["report", "quality", "inspect", "page", "tune"])
def test_rows_are_read_with_the_function(folder, tmp_path, capsys, refused, command):
    assert AttributionStore(folder / "store").settings.segmenter == "custom"
    line = lines(folder, tmp_path)[command]
    refused("cut by a function, 'by_sentence'.* `--segmenter FILE.py:FUNCTION`", line)
    cli.main(f"{line} --segmenter {folder / 'cut.py'}:by_sentence".split())
    shown = capsys.readouterr().out
    assert {
        "report": "3 traces: ",
        "quality": "3 traces: precision",
        "inspect": "sum-1",
        "page": "is in",
        "tune": "(3 traces)",
    }[command] in shown
    assert "not in the store" not in shown.replace("0 not in the store", "")


def test_a_report_on_the_store_alone_needs_no_function(folder, tmp_path, capsys, refused):
    line = f"report --attributions {folder / 'store'} --output_dir {tmp_path}"
    cli.main(line.split())
    assert "3 traces: " in capsys.readouterr().out
    refused("--segmenter has no effect without --dataset_name", f"{line} --segmenter {folder / 'cut.py'}:by_sentence")


def test_the_option_is_refused_where_no_function_cut(folder, tmp_path, refused):
    line = lines(folder, tmp_path)["quality"].replace("store", "plain")
    refused("were cut by 'keywords'", f"{line} --segmenter {folder / 'cut.py'}:by_sentence")
    line = lines(folder, tmp_path)["quality"]
    refused("cannot be loaded", f"{line} --segmenter {folder / 'cut.py'}:nothing")


def test_a_changed_function_is_named(folder, tmp_path, capsys, refused):
    (tmp_path / "changed.py").write_text(SEGMENTER.replace("[.:]", "[.]"))
    line = lines(folder, tmp_path)["quality"]
    # Some traces are still cut as they were
    with pytest.raises(SystemExit):
        cli.main(f"{line} --segmenter {tmp_path / 'changed.py'}:by_sentence --roles_column answer".split())
        pytest.fail("roles must not fit")
    assert "has changed since the store" in capsys.readouterr().out


def test_stores_of_a_function_and_of_a_name_are_swept_together(folder, tmp_path, capsys):
    line = lines(folder, tmp_path)["tune"].replace(f"--attributions {folder / 'store'}", "")
    both = f"--attributions {folder / 'store'} {folder / 'plain'} --segmenter {folder / 'cut.py'}:by_sentence"
    cli.main(f"{line} {both}".split())
    shown = capsys.readouterr().out
    assert "store, absolute: gap" in shown and "plain, absolute: gap" in shown
