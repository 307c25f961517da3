"""Names and texts of others reach the terminal only as text: in every command, log line, warning and traceback."""

import contextlib
import json
import logging
import warnings

import pytest
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.printing import get_logger, printable_traceback


# Sets the title, clears the screen, turns the text around
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"


def is_safe(text):
    return not any(character in text for character in "\x1b\x07\u202e\x9b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"{HOSTILE}{i}", **row} for i, row in enumerate(make_rows(3))]
    rows = [{**row, "solution": row["solution"].replace("Wait", f"Wait{HOSTILE}"), "roles": "none"} for row in rows]
    rows.append({**rows[0], "id": f"no answer {HOSTILE}", "answer": " "})
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_no_escape_sequence_of_a_dataset_reaches_the_terminal(folder, tmp_path, capfd, caplog):
    pytest.importorskip("matplotlib")
    data = f"--dataset_name {folder / 'traces.jsonl'}"
    store, model = f"--attributions {folder / 'store'}", f"--model_name_or_path {folder / 'model'}"
    lines = [
        f"attribute {data} {store} {model} --attribution_rule midpoint --attribution_evaluations 2",
        f"inspect {data} {store} --trace 1",
        f"inspect {data} {store} --trace 1 --html {tmp_path / 'page.html'}",
        f"inspect {data} {store} --trace {HOSTILE}",
        f"report {data} {store} --output_dir {tmp_path / 'report'}",
        f"quality {data} {store}",
        f"tune {data} {store} {model} --output_dir {tmp_path / 'tune'} --keep_last 0",
        f"evaluate --outputs {folder / 'traces.jsonl'}",
        f"evaluate --models {HOSTILE} --problems {folder / 'traces.jsonl'} --output_dir {tmp_path}",
        f"generate {model} --problems {folder / 'traces.jsonl'} --dataset {tmp_path / 'own.jsonl'} --samples 1 "
        "--max_new_tokens 2 --temperature 0",
        f"sft {data} {store} {model} --output_dir {tmp_path / 'out'} --max_steps 1 --bf16 False --report_to none "
        "--use_cpu True --save_strategy no",
        f"{HOSTILE}",
        f"inspect {HOSTILE}",
    ]
    for line in lines:
        capfd.readouterr()
        caplog.clear()
        with contextlib.suppress(SystemExit):
            cli.main(line.split())
        captured = capfd.readouterr()
        assert is_safe(captured.out + captured.err + caplog.text), line.split()[0]


def test_a_record_of_a_logger_is_made_safe_for_every_handler(caplog):
    logger = get_logger("trl_segment.store.store")
    assert get_logger("trl_segment.store.store") is logger and len(logger.filters) == 1
    with caplog.at_level(logging.WARNING):
        logger.warning("%s of %s", HOSTILE, "a folder")
    assert is_safe(caplog.text) and "\\x1b]0;owned" in caplog.text and "of a folder" in caplog.text


def test_tracebacks_and_warnings_are_made_safe(monkeypatch, capsys):
    try:
        raise KeyError(HOSTILE) from ValueError(HOSTILE)
    except KeyError as error:
        shown = printable_traceback(error)
    assert is_safe(shown) and "Traceback" in shown and shown.endswith("\n")

    def fails(argv):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            print(warnings.formatwarning(HOSTILE, UserWarning, "file.py", 1))
        raise ValueError(HOSTILE)

    with pytest.raises(SystemExit):
        cli.run("attribute", fails, ["--traceback"])
    captured = capsys.readouterr()
    assert is_safe(captured.out + captured.err) and "Traceback" in captured.err
