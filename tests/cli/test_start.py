"""What commands import before they work, and how much help they print, in processes of their own."""

import json
import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY

from trl_segment.cli import main as cli


WORLD = REPOSITORY / "examples" / "tiny_world"
# As if torch was not installed
_WITHOUT_TORCH = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else found(name, *rest)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Finder())
"""


def run(words, prepare="", forbidden=("torch",)):
    """Output of a command in a process that ends badly if it has imported a forbidden module."""
    code = (
        f"{prepare}\nimport sys\nfrom trl_segment.cli.main import main\n"
        f"try:\n    main({[str(word) for word in words]!r})"
        f"\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"found = sorted(set({list(forbidden)!r}) & set(sys.modules))\nassert not found, found"
    )
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    rows = (WORLD / "traces.jsonl").read_text().splitlines()[:4]
    (folder / "traces.jsonl").write_text("\n".join(rows) + "\n")
    cli.main(
        f"attribute --model_name_or_path {WORLD / 'checkpoint'} --dataset_name {folder / 'traces.jsonl'} "
        f"--attributions {folder / 'store'} --attribution_rule midpoint --attribution_evaluations 2".split()
    )
    return folder


# Each takes half a second or more, and a help needs none of them
HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "huggingface_hub", "matplotlib", "jinja2")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_on_one_page_and_loads_nothing_heavy(command):
    shown = run([command, "--help"], forbidden=HEAVY).splitlines()
    # All options of `trl sft` and of `accelerate launch` would be 300 lines
    assert len(shown) <= {"attribute": 72, "sft": 92}.get(command, 62)
    assert max(map(len, shown)) <= 120
    assert shown[0].startswith(f"usage: trl-segment {command} ")
    assert any(line.startswith(f"  trl-segment {command} ") for line in shown[shown.index("examples:") :])


def test_help_in_front_of_a_mistake_and_of_a_launcher_loads_nothing_heavy():
    assert "--tau" in run(["sft", "--no_such_option", "-h"], forbidden=HEAVY)
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trl_segment.cli.sft", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert "--dropped_segments" in shown.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines()}
    assert "trl_segment.cli.sft" in loaded or "trl_segment.cli.options" in loaded
    assert not loaded & set(HEAVY)


def test_the_list_of_commands_and_the_version_load_nothing_at_all():
    nothing = (*HEAVY, "numpy", "pyarrow")
    shown = run(["--help"], forbidden=nothing)
    assert all(f"  {command} " in shown for command in cli.COMMANDS)
    assert run(["--version"], forbidden=nothing) == run(["merge", "--version"], forbidden=nothing)


def test_help_of_attribute_names_what_acts_in_it():
    shown = run(["attribute", "--help"], forbidden=HEAVY)
    assert "--use_peft" not in shown and "--lora_r" not in shown and "--transition" not in shown


def test_merge_and_report_run_without_torch_and_datasets(folder, tmp_path):
    forbidden = ("torch", "transformers", "datasets", "huggingface_hub")
    merged = ["merge", "--stores", folder / "store", "--attributions", tmp_path / "merged"]
    assert "4 traces stored" in run(merged, forbidden=forbidden)
    shown = run(["report", "--attributions", folder / "store", "--output_dir", tmp_path / "page"], forbidden=forbidden)
    assert "4 traces: " in shown


def test_quality_report_and_inspect_read_rows_where_torch_is_not_installed(folder, tmp_path):
    """`datasets` imports torch where it finds it, so here it must not find it."""
    data = ["--dataset_name", folder / "traces.jsonl", "--attributions", folder / "store"]
    out = tmp_path / "out"
    assert "4 traces: precision" in run(["quality", *data, "--output_dir", out], prepare=_WITHOUT_TORCH)
    assert 0 <= json.loads((out / "quality.json").read_text())["f1"] <= 1
    assert "4 traces: " in run(["report", *data, "--output_dir", out], prepare=_WITHOUT_TORCH)
    assert "kept" in run(["inspect", *data], prepare=_WITHOUT_TORCH)
    run(["inspect", *data, "--html", out / "trace.html"], prepare=_WITHOUT_TORCH)
    assert (out / "trace.html").exists()
