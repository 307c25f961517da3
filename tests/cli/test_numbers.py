"""No number that is none gets anywhere: every float and every count of every config and command."""

import dataclasses
import importlib
import math
import typing

import pytest
from helpers import tiny_model, tiny_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_segment import SegmentSelectiveSFTConfig
from trl_segment.attribution import AttributionConfig, BackwardSweep, IntegratedGradients
from trl_segment.cli.main import COMMANDS, main
from trl_segment.cli.start import start
from trl_segment.evaluation.generation import DecodingConfig
from trl_segment.selection import SelectionConfig


OURS = (SelectionConfig, AttributionConfig, DecodingConfig)
NOT_A_NUMBER = (math.nan, math.inf, -math.inf)


def kinds(config):
    """Types of the fields that a config has of its own, those of TRL's left out, by name."""
    hints = typing.get_type_hints(config)
    trls = (
        set() if config is not SegmentSelectiveSFTConfig else {f.name for f in dataclasses.fields(config.__mro__[-2])}
    )
    for parent in config.__mro__[1:]:
        if dataclasses.is_dataclass(parent) and not parent.__module__.startswith("trl_segment"):
            trls |= {entry.name for entry in dataclasses.fields(parent)}
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(config) if entry.name not in trls}


def numbers(config, kind):
    return [name for name, hint in kinds(config).items() if hint in (kind, kind | None)]


FLOATS = [(config, name) for config in (*OURS, SegmentSelectiveSFTConfig) for name in numbers(config, float)]


@pytest.mark.parametrize(("config", "name"), FLOATS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("value", NOT_A_NUMBER)
def test_a_config_refuses_what_is_no_number(config, name, value, tmp_path):
    options = (
        {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False} if config is SegmentSelectiveSFTConfig else {}
    )
    with pytest.raises(ValueError, match=name.removeprefix("attribution_")):
        config(**{name: value, **options})


def test_there_are_such_fields():
    assert len(FLOATS) >= 14 and {"tau", "kept_weight", "temperature"} <= {name for _, name in FLOATS}


def options_of_commands():
    """Every float of every command, lists among them, by the command and the option."""
    for command in COMMANDS:
        if command == "sft":  # TRL's options, and the config above
            continue
        parser = start(importlib.import_module(f"trl_segment.cli.{command}").COMMAND, [])
        for action in parser._actions:
            if action.type is float:
                yield command, action.option_strings[0]


# What each command asks for before it looks at numbers
_REQUIRED = {
    "attribute": "--model_name_or_path m --dataset_name d --attribution_scorer marginal",
    "inspect": "--dataset_name d",
    "report": "--dataset_name d",
    "quality": "--dataset_name d",
    "export": "--model_name_or_path m --dataset_name d --format weights --output o",
    "faithfulness": "--dataset_name d --model_name_or_path m",
    "tune": "--dataset_name d --model_name_or_path m",
    "evaluate": "--models m --problems p",
    "generate": "--model_name_or_path m --problems p",
}


@pytest.mark.parametrize(("command", "option"), options_of_commands())
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_command_refuses_what_is_no_number(command, option, value, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    shown = refused("error", f"{command} {_REQUIRED[command]} {option}={value}")
    assert value in shown and option[2:].removesuffix("s") in shown
    assert list(tmp_path.iterdir()) == [], "refused before anything is written"


def floats_of_training():
    """Every float of every config of `trl-segment sft`, TRL's own among them."""
    for config in start(importlib.import_module("trl_segment.cli.sft").COMMAND, []).dataclass_types:
        hints = typing.get_type_hints(config)
        yield from (entry.name for entry in dataclasses.fields(config) if float in _kinds_of(hints[entry.name]))


def _kinds_of(hint):
    return {hint, *(kind for inner in typing.get_args(hint) for kind in _kinds_of(inner))}


@pytest.mark.parametrize("option", floats_of_training())
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("file", [False, True])
def test_training_refuses_what_is_no_number(option, value, file, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    line = f"sft --model_name_or_path m --dataset_name d --use_cpu --bf16 false --{option}={value}"
    if file:
        (tmp_path / "c.yaml").write_text(f"{option}: {value.replace('inf', '.inf').replace('nan', '.nan')}\n")
        line = "sft --model_name_or_path m --dataset_name d --use_cpu --bf16 false --config c.yaml"
    if (option, value) == ("max_grad_norm", "inf"):
        refused("^(?!.*no finite number)", line)  # gradients are left as they are; the model is missing
    else:
        refused(f"--{option} {value} is no finite number", line)
    assert [path.name for path in tmp_path.iterdir() if path.name != "c.yaml"] == []


def test_there_are_floats_of_trl_and_of_transformers():
    assert {"learning_rate", "neftune_noise_alpha", "lora_dropout", "test_split_size", "tau"} <= set(
        floats_of_training()
    )


@pytest.mark.parametrize(
    "line",
    [
        "evaluate --models m --problems p --max_problems 0",
        "evaluate --models m --problems p --max_problems -1",
        "evaluate --models m --problems p --samples 0",
        "evaluate --models m --problems p --batch_size 0",
        "evaluate --models m --problems p --max_new_tokens 0",
        "generate --model_name_or_path m --problems p --max_problems 0",
        "tune --dataset_name d --max_traces 0",
        "faithfulness --dataset_name d --max_traces 0",
        "faithfulness --dataset_name d --draws 0",
        "attribute --model_name_or_path m --dataset_name d --attribution_evaluations 0",
        "attribute --model_name_or_path m --dataset_name d --attribution_max_tokens 0",
        "inspect --dataset_name d --keep_first -1",
    ],
)
def test_a_count_of_nothing_is_refused(line, refused):
    words = line.split()
    shown = refused("at least|cannot be negative|evaluation", line)
    assert words[-1] in shown


def test_scorers_that_are_made_by_hand_refuse_them_too():
    model = tiny_model(tiny_tokenizer())
    for value in NOT_A_NUMBER:
        for name in ("tolerance", "noise_scale"):
            with pytest.raises(ValueError, match=name):
                IntegratedGradients(model, **{name: value})
        with pytest.raises(ValueError, match="threshold"):
            BackwardSweep(model, threshold=value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(numbers(SelectionConfig, float)), st.floats(), min_size=1))
def test_a_selection_has_finite_thresholds_or_there_is_none(values):
    try:
        config = SelectionConfig(**values)
    except ValueError:
        return
    thresholds = [getattr(config, name) for name in numbers(SelectionConfig, float)]
    assert all(math.isfinite(value) for value in thresholds if value is not None)


def test_help_still_starts(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    assert "--taus" in capsys.readouterr().out
