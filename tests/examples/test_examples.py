"""Every example with the command line of its README, on tiny models; and what `trl-segment sft` takes of `trl sft`."""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest
import trl
import yaml
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer
from hub_stand_in import hub_stand_in
from trl.scripts.sft import make_parser as make_trl_parser

from trl_segment import AttributionStore, SegmentSelectiveSFTConfig
from trl_segment.cli import attribute, sft
from trl_segment.cli import main as cli
from trl_segment.cli.parser import CommandParser
from trl_segment.store import CUSTOM_SEGMENTER
from trl_segment.trainer.callback import STORE_FOLDER


EXAMPLES = REPOSITORY / "examples"
CONFIGS = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
TRAINING = (
    "--max_steps 1 --max_length 256 --per_device_train_batch_size 2 --logging_steps 1 --bf16 False --use_cpu "
    "--report_to none --optim adamw_torch --gradient_accumulation_steps 1"
)
ATTRIBUTION = "--attribution_rule midpoint --attribution_evaluations 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, and a dataset as a folder, which `load_dataset` takes like a name on the Hub."""
    folder = tmp_path_factory.mktemp("examples")
    tokenizer = tiny_tokenizer()
    for name, seed in (("model", 0), ("other", 1)):
        tiny_model(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, make_rows(4))) + "\n")
    return folder


@pytest.fixture(scope="module")
def store(folder):
    run("attribute.yaml", folder, f"--attributions {folder / 'store'} {ATTRIBUTION}")
    return folder / "store"


@functools.cache
def command_lines():
    """Command line of each file in the table of examples/README.md."""
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(?P<file>[\w.]+)\]\((?P=file)\) \| [^|]+ \| `([^`]+)` \|$", table, re.MULTILINE)
    return dict(rows)


def arguments(name, folder, overrides):
    """The command line, word by word, and behind it what makes it small."""
    model = f"--model_name_or_path {folder / 'model'} --dataset_name {folder / 'data'}"
    return shlex.split(f"{command_lines()[name]} {model} {overrides}")


def run(name, folder, overrides):
    program, *words = arguments(name, folder, overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        if program == "python":
            patch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            assert program == "trl-segment"
            cli.main(words)


def test_the_readme_lists_every_example():
    scripts = [path.name for path in EXAMPLES.glob("*.py")]
    assert sorted(command_lines()) == sorted([*CONFIGS, *scripts])
    for name in command_lines():
        assert f"examples/{name}" in command_lines()[name]
        assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_are_arguments_and_values_are_kept(name):
    """A key that is none would go to `accelerate launch` unnoticed."""
    config = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    if command_lines()[name].startswith("trl-segment attribute"):
        parser = CommandParser(attribute.COMMAND)
    else:
        parser = CommandParser(sft.COMMAND)
    actions = {action.dest: action for action in parser._actions}
    assert config.keys() <= actions.keys()
    for key, value in config.items():
        # A default that comes from a file is not converted, so the file has to have the type
        for item in value if isinstance(value, list) else [value]:
            kind = actions[key].type
            assert not isinstance(kind, type) or isinstance(item, (int, float) if kind is float else kind), key
        assert actions[key].choices is None or value in actions[key].choices


@pytest.mark.parametrize("name", ["full.yaml", "segment_selective_sft.py"])
def test_all_weights(name, folder, tmp_path):
    run(name, folder, f"--output_dir {tmp_path} {TRAINING} {ATTRIBUTION}")
    assert (tmp_path / "model.safetensors").exists()
    assert len(AttributionStore(tmp_path / STORE_FOLDER)) == 4


def test_lora(folder, tmp_path):
    pytest.importorskip("peft")
    run("lora.yaml", folder, f"--output_dir {tmp_path} {TRAINING} {ATTRIBUTION}")
    adapter = json.loads((tmp_path / "adapter_config.json").read_text())
    assert adapter["r"] == 32
    assert len(adapter["target_modules"]) == 7
    assert not (tmp_path / "model.safetensors").exists()


def test_qlora(folder, store, tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    run("qlora.yaml", folder, f"--output_dir {tmp_path} {TRAINING} {ATTRIBUTION}")
    assert (tmp_path / "adapter_model.safetensors").exists()
    # The model in 4 bits attributed, not the one that it was made from
    assert AttributionStore(tmp_path / STORE_FOLDER).settings.weights != AttributionStore(store).settings.weights


def test_another_attribution_model(folder, store, tmp_path):
    options = f"--attribution_model {folder / 'other'} --output_dir {tmp_path} {TRAINING} {ATTRIBUTION}"
    run("attribution_model.yaml", folder, options)
    ours, other = AttributionStore(store), AttributionStore(tmp_path / STORE_FOLDER)
    assert set(ours) == set(other)
    assert ours.settings.weights != other.settings.weights
    assert other.settings.dtype == "bfloat16"


def test_stored_scores_are_used_and_not_made_again(folder, store, tmp_path):
    run("precomputed_store.yaml", folder, f"--attributions {store} --output_dir {tmp_path} {TRAINING}")
    assert (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / STORE_FOLDER).exists()


def test_own_segments(folder, tmp_path):
    run("own_segments.py", folder, f"--output_dir {tmp_path} {TRAINING} {ATTRIBUTION}")
    store = AttributionStore(tmp_path / STORE_FOLDER)
    assert (store.settings.segmenter, store.settings.custom_segmenter) == (CUSTOM_SEGMENTER, "segmenter")
    assert store.settings.segmenter_source is not None
    # Blank lines cut each row into as many segments as there are paragraphs
    paragraphs = [row["solution"].split("</think>")[0].count("\n\n") + 1 for row in make_rows(4)]
    assert sorted(len(row.num_tokens) for row in store.values()) == sorted(paragraphs)


def test_compared_selections_share_one_store(folder, tmp_path, capsys):
    options = f"--output_dir {tmp_path} {TRAINING} {ATTRIBUTION} --tau 0.2 --keep_last 0"
    run("compare_selections.py", folder, options)
    assert len(AttributionStore(tmp_path / "attribution" / STORE_FOLDER)) == 4
    assert not (tmp_path / "random" / STORE_FOLDER).exists()
    kept = re.findall(r"segments kept +(\d+) of (\d+)", capsys.readouterr().out)
    # With everything kept there is nothing to select, and nothing to attribute
    (attribution, total), random = (tuple(map(int, pair)) for pair in kept)
    assert attribution < total
    assert random == (attribution, total)
    assert not (tmp_path / "all" / STORE_FOLDER).exists()
    assert all((tmp_path / name / "model.safetensors").exists() for name in ("attribution", "random", "all"))


def test_a_recipe_with_paragraphs_as_segments(folder, tmp_path):
    pytest.importorskip("peft")
    run("attribute.yaml", folder, f"--attributions {tmp_path / 'store'} --segmenter paragraphs {ATTRIBUTION}")
    options = f"--attributions {tmp_path / 'store'} --output_dir {tmp_path / 'out'} {TRAINING}"
    run("s1k_lora.yaml", folder, options)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 16
    counts = [len(row.num_tokens) for row in AttributionStore(tmp_path / "store").values()]
    paragraphs = [row["solution"].split("</think>")[0].count("\n\n") + 1 for row in make_rows(4)]
    assert sorted(counts) == sorted(paragraphs)


@pytest.mark.slow
def test_push_to_hub(folder, tmp_path):
    pytest.importorskip("peft")
    program = [sys.executable, "-m", "trl_segment.cli.main"]
    with hub_stand_in() as hub:
        # Where the Hub is stands in constants that are read at import
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": "x",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(tmp_path / "home"),
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        overrides = f"--output_dir {tmp_path / 'out'} {TRAINING} {ATTRIBUTION}"
        words = [word.replace("YOUR_NAME", "user") for word in arguments("push_to_hub.yaml", folder, overrides)[1:]]
        done = subprocess.run(
            [*program, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=180
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.unknown == []
    pushed = hub.repos["models/user/MODEL"]
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= pushed.keys()
    assert "2602.00425" in pushed["README.md"].decode()


TRL_CLASSES = (trl.SFTConfig, trl.ScriptArguments, trl.ModelConfig, trl.DatasetMixtureConfig)


@pytest.mark.parametrize("cls", TRL_CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_of_trl_is_a_flag(cls):
    flags = CommandParser(sft.COMMAND)._option_string_actions
    for field in dataclasses.fields(cls):
        if field.init:
            assert f"--{field.name}" in flags
            assert f"--{field.name.replace('_', '-')}" in flags


def test_every_flag_of_trl_sft_means_the_same():
    ours, theirs = CommandParser(sft.COMMAND)._option_string_actions, make_trl_parser()._option_string_actions
    # Asked for help, a command does not get to its parser
    flags = theirs.keys() - {"-h", "--help"}
    assert flags <= ours.keys()
    for flag in flags:
        action = theirs[flag]
        for name in ("dest", "nargs", "const", "default", "choices", "required"):
            assert getattr(ours[flag], name) == getattr(action, name), flag
        # Types that the parser makes anew for each field are equal by name only
        assert getattr(ours[flag].type, "__qualname__", None) == getattr(action.type, "__qualname__", None), flag


def test_help_lists_our_options(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sft", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    theirs = {field.name for field in dataclasses.fields(trl.SFTConfig)}
    ours = [field.name for field in dataclasses.fields(SegmentSelectiveSFTConfig) if field.name not in theirs]
    assert {"tau", "attributions", "attribution_model", "dropped_segments", "segmenter"} <= set(ours)
    for name in ours:
        assert re.search(rf"^  --{name}[ ,]", shown, re.MULTILINE), name
    assert "--lora_r" in shown
    section = shown.split("\nsegment selection:\n")[1].split("\n\n")[0]
    assert "--tau" in section
    assert "--lora_r" not in section


def test_examples_import_only_what_the_package_needs():
    for path in EXAMPLES.glob("*.py"):
        modules = re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert all(importlib.util.find_spec(module) for module in modules)
        assert set(modules) <= {"dataclasses", "datasets", "os", "re", "trl", "trl_segment"}
