"""The help of each command against its parser, TRL's classes, and what is written in its examples."""

import dataclasses
import importlib
import shlex

import pytest
import trl
from accelerate.commands.launch import launch_command_parser

from trl_segment.attribution import SCORERS, choices
from trl_segment.cli.main import COMMANDS
from trl_segment.cli.options import Group, Names
from trl_segment.cli.start import start
from trl_segment.trainer.options import SelectiveTrainingConfig


COMMAND = {name: importlib.import_module(f"trl_segment.cli.{name}").COMMAND for name in COMMANDS}
WITH_OPTIONS = [name for name, command in COMMAND.items() if command.groups]
THEIRS = (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig)


def actions_of(name):
    """What argparse knows of each option, by its name on a line."""
    parser = start(COMMAND[name], [])
    return {action.option_strings[0]: action for action in parser._actions if action.default != "==SUPPRESS=="}


def shown_options(name):
    """Options that the help explains, and names of those that it only names."""
    explained, named = [], []
    for group in COMMAND[name].shown or COMMAND[name].groups:
        if isinstance(group, Names):
            named += [f"--{option}" for option in group.names]
        elif group.brief:
            named += [option.name for option in group.options()]
        else:
            explained += group.options()
    return explained, named


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_the_help_says_what_the_parser_takes(name):
    actions = actions_of(name)
    explained, named = shown_options(name)
    assert len({option.name for option in explained} | set(named)) == len(explained) + len(named)
    assert set(named) <= actions.keys()
    for option in explained:
        action = actions[option.name]
        assert option.choices is None or list(option.choices) == list(action.choices)
        if not isinstance(action.default, list):
            assert option.default == action.default or (name, option.name) == ("sft", "--dtype")
    if name != "sft":
        assert {option.name for option in explained} | set(named) == {
            option for option in actions if not option.startswith("--no_")
        }


def test_the_help_of_sft_explains_every_option_of_ours():
    explained, named = shown_options("sft")
    ours = {field.name for field in dataclasses.fields(SelectiveTrainingConfig)}
    theirs = {field.name for config in THEIRS for field in dataclasses.fields(config)}
    assert {f"--{option}" for option in ours - theirs} <= {option.name for option in explained}
    assert all(f"{name[2:]}" in theirs for name in named)
    assert "--seed" in actions_of("sft")


def test_all_of_the_help_of_sft_has_every_option_of_trl_and_transformers(capsys):
    with pytest.raises(SystemExit) as stop:
        start(COMMAND["sft"], ["--help-all"])
    assert stop.value.code == 0
    shown = {line.split()[0]: None for line in capsys.readouterr().out.splitlines() if line.startswith("  --")}
    theirs = {field.name for config in THEIRS for field in dataclasses.fields(config) if field.init}
    ours = {field.name for field in dataclasses.fields(SelectiveTrainingConfig)}
    assert shown.keys() == {f"--{name}" for name in theirs | ours | {"dry_run"}}


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_all_of_the_help_holds_the_whole_text_of_each_option(name, capsys):
    with pytest.raises(SystemExit):
        start(COMMAND[name], ["--help_all"])
    shown = " ".join(capsys.readouterr().out.split())
    for group in COMMAND[name].shown or COMMAND[name].groups:
        if isinstance(group, Group) and name != "sft":
            assert all(" ".join(option.help.split()) in shown for option in group.options())
    assert COMMAND[name].examples[0].split()[1] == name


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_copied(name, capsys):
    """They are one command each, broken with backslashes, and every option of theirs is there with such a value."""
    with pytest.raises(SystemExit):
        start(COMMAND[name], ["--help"])
    shown = capsys.readouterr().out.split("examples:\n")[1].replace("\\\n", " ")
    lines = [shlex.split(line) for line in shown.splitlines()]
    assert lines == [shlex.split(example) for example in COMMAND[name].examples]
    for program, command, *words in lines:
        assert (program, command) == ("trl-segment", name)
        if not COMMAND[name].groups:
            assert words[0] in COMMAND[name].usage.split("|") and words[1] == ">"
            continue
        parser = start(COMMAND[name], words)
        *_, from_file, from_line = parser.parse_known([*words, *(["--use_cpu"] if name == "sft" else [])])
        if name == "sft":
            options = [word for word in from_line if word.startswith("--")]
            assert set(options) <= launch_command_parser()._option_string_actions.keys()
        else:
            assert (from_file, from_line) == ([], [])


def test_what_the_help_names_is_what_there_is():
    ours = {name for name, scorer in SCORERS.items() if scorer.__module__.startswith("trl_segment.")}
    assert set(choices.SCORER_NAMES) == ours and len(choices.SCORER_NAMES) == len(ours)


def test_a_flag_of_the_line_is_refused_in_a_file(tmp_path, refused):
    (tmp_path / "c.yaml").write_text("quiet: true\n")
    refused(
        "`quiet` stands in the file of --config, but belongs on the command line", f"merge --config {tmp_path}/c.yaml"
    )
