"""How commands end that cannot do their work, and options that cannot have an effect."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer

from trl_segment.cli import main as cli
from trl_segment.cli.errors import UserError, is_for_users, one_line
from trl_segment.cli.output import say


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"sum-{i}", **row} for i, row in enumerate(make_rows(3))]
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    cli.main(f"attribute {given(folder)} --attribution_rule midpoint --attribution_evaluations 2".split())
    return folder


def given(folder):
    data = f"--dataset_name {folder / 'traces.jsonl'} --attributions {folder / 'store'}"
    return f"--model_name_or_path {folder / 'model'} {data}"


def sft(folder, options):
    return f"sft {given(folder)} --output_dir {folder / 'out'} --use_cpu --bf16 False --report_to none {options}"


def start(*words):
    """A process of the module form that launchers start."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, cwd=REPOSITORY, timeout=120
    )


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("report --attributions nothing", "^trl-segment report: error: There is no attribution store at 'nothing'"),
        ("report --tau 2 --attributions nothing", "error: `tau` is the share of attribution strength"),
        ("report --tau much", "error: argument --tau: invalid float value: 'much'"),
        ("report --atributions x", "error: unknown option --atributions. Did you mean --attributions"),
        ("report --keep-fist 1", r"error: unknown option --keep-fist. Did you mean --keep_first or --keep_last\?"),
        ("report --output", "error: unknown option --output. Did you mean --output_dir"),
        ("report nothing", "error: unexpected 'nothing': every value belongs to an option"),
        ("report --config", "error: --config needs a file"),
        ("report --config nothing.yaml", "error: nothing.yaml: No such file or directory"),
        ("report --selection random", "--selection random does not depend on the scores"),
        ("merge", "error: --stores is required"),
        ("inspect", "error: There is no attribution store at 'attributions'"),
        ("attribute --model_name_or_path x", "error: --dataset_name is required"),
        ("attribute --use_peft", "error: unknown option --use_peft"),
        ("attribute --lora_r 3", "error: unknown option --lora_r"),
        ("attribute --ignore_bias_buffers", "error: unknown option --ignore_bias_buffers"),
        ("generate --problems x", "error: --model_name_or_path is required: the model that solves the problems"),
        ("evaluate --models x", "error: --problems is required: the problem sets that the models solve"),
        ("demo --world nowhere", "error: the demo's model is not at"),
    ],
)
def test_one_line_says_what_is_wrong(line, pattern, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = refused(pattern, line)
    assert shown.startswith(f"trl-segment {line.split()[0]}: error: ")


def test_files_that_cannot_be_read(folder, tmp_path, refused):
    (tmp_path / "bad.yaml").write_text("tau: [0.5")
    refused("error: while parsing a flow sequence", ["report", "--config", tmp_path / "bad.yaml"])
    (tmp_path / "other.yaml").write_text("taau: 0.5\n")
    refused("unknown option --taau. Did you mean --tau", ["report", f"--config={tmp_path / 'other.yaml'}"])
    (tmp_path / "choice.yaml").write_text("selection: best\n")
    refused(
        "`selection: best` in the file of --config is not one of", ["report", "--config", tmp_path / "choice.yaml"]
    )
    (tmp_path / "bad.jsonl").write_text('{"question": "1"\n{]\n')
    line = f"attribute --model_name_or_path {folder / 'model'} --dataset_name {tmp_path / 'bad.jsonl'}"
    refused(f"error: '{tmp_path / 'bad.jsonl'}' cannot be read: ", line)
    (tmp_path / "template.jinja").write_text("{% for %}")
    refused(
        "jinja|Expected|unexpected",
        f"{given_new(folder, tmp_path)} --chat_template_path {tmp_path / 'template.jinja'}",
    )


def given_new(folder, tmp_path):
    return f"attribute {given(folder).replace(str(folder / 'store'), str(tmp_path / 'new'))}"


def test_a_traceback_is_shown_when_it_is_asked_for(folder, capsys):
    for line in ("--traceback report --attributions nothing", "report --attributions nothing --traceback"):
        with pytest.raises(SystemExit) as stop:
            cli.main(line.split())
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert "Traceback (most recent call last)" in shown and "FileNotFoundError" in shown
        assert shown.splitlines()[-1].startswith("trl-segment report: error: There is no attribution store")


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError, AssertionError, RecursionError])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def broken(*args, **kwargs):
        raise error("a bug")

    monkeypatch.setattr("trl_segment.cli.report.open_store", broken)
    with pytest.raises(error):
        cli.main(["report"])


def test_errors_of_libraries_are_bugs_unless_the_user_can_help_it():
    def raised(error, module):
        namespace = {"__name__": module, "error": error}
        try:
            exec("raise error", namespace)
        except RuntimeError as caught:
            return caught

    assert not is_for_users(raised(RuntimeError("shapes differ"), "torch.nn"))
    assert is_for_users(raised(RuntimeError("another run"), "trl_segment.store.locks"))
    assert is_for_users(MemoryError()) and is_for_users(NotImplementedError()) and is_for_users(UserError())
    assert not is_for_users(ImportError("cannot import name 'x'", name="trl_segment.store"))
    assert is_for_users(ImportError("needs vLLM"))


def test_a_list_in_a_message_becomes_one_line():
    assert (
        one_line(ValueError("differ:\n  a: 1, 2\n  b: 3, 4\nChoose.\n\nNow."))
        == "differ: a: 1, 2; b: 3, 4. Choose. Now."
    )
    assert one_line(OSError(2, "No such file", "x.yaml")) == "x.yaml: No such file"
    assert one_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize("launcher", ["trl_segment.cli.main", "trl_segment.cli.report"])
def test_a_command_that_is_started_as_a_module_ends_the_same(launcher, tmp_path):
    words = ["report"] if launcher.endswith("main") else []
    done = start(launcher, *words, "--attributions", tmp_path / "nothing")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("trl-segment report: error: There is no attribution store")


def test_processes_of_a_launcher_end_the_same(folder):
    words = given(folder).replace("traces.jsonl", "nothing.jsonl").split()
    for module, name in (("trl_segment.cli.attribute", "attribute"), ("trl_segment.cli.sft", "sft")):
        done = start(module, *words, *(["--output_dir", folder / "out", "--use_cpu"] if name == "sft" else []))
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"trl-segment {name}: error: ")


def test_a_launched_run_that_fails_shows_one_error(folder):
    line = sft(folder, "--num_machines 1 --num_processes 1").replace("traces.jsonl", "nothing.jsonl")
    done = start("trl_segment.cli.main", *line.split())
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert sum(text.startswith("trl-segment sft: error: ") for text in done.stderr.splitlines()) == 1


def test_ctrl_c_ends_a_command_with_one_line(folder):
    command = [sys.executable, "-m", "trl_segment.cli.main", "attribute", *given(folder).split(), "--progress", "True"]
    command += (
        f"--attributions {folder / 'interrupted'} --attribution_rule paper --attribution_evaluations 5000".split()
    )
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        # A shell's background jobs ignore the signal, and so would this process if the tests are one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # Interrupted once it is at work
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (folder / "interrupted" / "settings.json").exists():
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert shown.splitlines()[-1] == "trl-segment attribute: interrupted"
    assert "Traceback" not in shown


def test_options_of_sft_that_have_no_effect_are_refused(folder, refused):
    for options in ("--attribution_model x", "--attribution_rule paper", "--answer_template {answer}"):
        name = options.split()[0]
        refused(f"{name} has no effect beside --attributions", sft(folder, options))
    refused("--dropped_weight has no effect without", sft(folder, "--dropped_weight 0.5"))
    without = sft(folder, "").replace(f"--attributions {folder / 'store'}", "")
    refused(
        "--attribution_adapter has no effect beside", f"{without} --attribution_model x --attribution_adapter true"
    )
    refused("unknown option --taau. Did you mean --tau", f"{without} --taau 0.5")
    refused("unknown option --num_proceses. Did you mean --num_processes", f"{without} --num_proceses 2")
    refused("the dataset has no split 'test', only train", f"{without} --eval_strategy epoch")


def test_options_of_attribute_that_have_no_effect_are_refused(folder, refused):
    line = f"attribute {given(folder)}"
    refused("--tau has no effect on the scores: thresholds are chosen later", f"{line} --tau 0.5")
    refused(
        "--attribution_rule has no effect on --attribution_scorer marginal",
        f"{line} --attribution_scorer marginal --attribution_rule paper",
    )
    refused(
        "--attribution_threshold has no effect on --attribution_scorer integrated_gradients",
        f"{line} --attribution_threshold 2",
    )


def test_what_a_name_holds_never_reaches_the_terminal(capsys, folder, tmp_path):
    say("a \x1b[2J name", "\u202eback")
    assert capsys.readouterr().out == "a \\x1b[2J name\n\\u202eback\n"
    rows = [{"id": "evil\x1b[31m", **make_rows(1)[0], "answer": ""}, {"id": "good", **make_rows(2)[1]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    data = f"--dataset_name {tmp_path / 'rows.jsonl'}"
    line = f"attribute --model_name_or_path {folder / 'model'} {data} --attributions {tmp_path / 'store'}"
    cli.main([*line.split(), "--dry_run"])
    cli.main([*line.split(), "--attribution_rule", "midpoint", "--attribution_evaluations", "2"])
    cli.main(f"inspect {data} --attributions {tmp_path / 'store'} --trace 0 --color False".split())
    with pytest.raises(SystemExit):
        cli.main([*f"inspect {data} --attributions {tmp_path / 'store'} --trace".split(), "\x1b[31m"])
    output, errors = capsys.readouterr()
    assert "\x1b" not in output and "evil\\x1b[31m" in output
    assert "\x1b" not in re.sub(r"(?m)^(?!trl-segment).*$", "", errors)


def test_a_command_leaves_no_process_group_behind(tmp_path):
    """A process that ends with one aborts now and then, after all its files are written."""

    def command(argv):
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)

    cli.run("attribute", command, [])
    assert not torch.distributed.is_initialized()
