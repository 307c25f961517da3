"""What a plain run shows besides its results: bars and our own warnings, and of other libraries nothing."""

import logging
import os
import re
import subprocess
import sys
import warnings

import pytest
from helpers import REPOSITORY

from trl_segment.cli.foreign import without_idle_lines


WORLD = REPOSITORY / "examples" / "tiny_world"
MODEL = f"--model_name_or_path {WORLD / 'checkpoint'}"
DATA = "--dataset_name traces.jsonl --attributions scores"
# As a person would type them, with the options alone that make them short
LINES = [
    f"attribute {MODEL} {DATA} --attribution_rule midpoint --attribution_evaluations 2",
    f"attribute {MODEL} {DATA} --attribution_rule midpoint --attribution_evaluations 2 --dry_run",
    f"inspect {DATA} --trace 0",
    f"inspect {MODEL} {DATA} --trace 0 --html trace.html",
    f"report {DATA}",
    f"quality {DATA}",
    f"tune {MODEL} {DATA}",
    f"faithfulness {MODEL} {DATA} --draws 1",
    f"export {MODEL} {DATA} --output labels.jsonl",
    f"sft {MODEL} {DATA} --output_dir out --max_steps 1 --max_length 2048 --bf16 False",
    f"sft {MODEL} {DATA} --output_dir lora --max_steps 1 --max_length 2048 --bf16 False --use_peft",
    f"sft {MODEL} {DATA} --output_dir out --dry_run",
    f"evaluate --models {WORLD / 'checkpoint'} --problems problems.jsonl --max_new_tokens 8",
    f"generate {MODEL} --problems problems.jsonl --samples 1 --dataset own.jsonl --max_new_tokens 1000",
    "merge --stores scores --attributions merged",
]

# Our own warnings go to a file; everything else that a process writes stays where it is
_RUN = """
import logging, sys
own = logging.getLogger("trl_segment")
own.addHandler(logging.FileHandler("own.log"))
own.propagate = False
from trl_segment.cli.main import main
for line in {lines!r}:
    print("$", line, flush=True)
    print("$", line, file=sys.stderr, flush=True)
    try:
        main(line.split())
    except SystemExit as end:
        assert line.startswith("generate") and end.code == 2, line  # no correct solution among so few
"""


def is_bar(line):
    return re.search(r"\d+%\||\d+ examples \[|\d+it \[|it/s\]|\?it/s|B/s\]", line) is not None


@pytest.mark.slow
def test_plain_runs_show_nothing_foreign(tmp_path):
    pytest.importorskip("peft")
    for name, rows in (("traces", 3), ("problems", 1)):
        lines = (WORLD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Nothing that pytest or this suite has set: warnings are shown as Python shows them
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "COLUMNS")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(lines=LINES)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [part.strip() for part in re.split(r"[\r\n]|\x1b\[A", done.stderr)]
    foreign = [
        part for part in shown if part and not is_bar(part) and not part.startswith(("$ ", "trl-segment generate:"))
    ]
    assert foreign == []
    # Every bar says what is done
    assert not any(part.startswith("Map:") for part in shown)
    assert not re.search(r"\[?WARNING\]?|Warning\b|deprecated", done.stdout), done.stdout


def test_only_the_lines_that_are_known_are_left_out(caplog, recwarn):
    """Other lines of the same loggers stay, and so does everything of other loggers; afterwards all is as before."""
    kernel = "Failed to load CPU gemm_4bit_forward from kernels-community: no module"
    old = "`is_gradient_checkpointing` is deprecated and will be removed in v6."
    bitsandbytes, theirs = logging.getLogger("bitsandbytes.backends.cpu.ops"), logging.getLogger("theirs")
    before = list(bitsandbytes.filters)
    with caplog.at_level(logging.WARNING), without_idle_lines():
        bitsandbytes.warning(kernel)
        bitsandbytes.warning("another line")
        theirs.warning(kernel)
        warnings.warn(old, FutureWarning)
        warnings.warn(old, UserWarning)
        warnings.warn("`gradient_checkpointing` is deprecated", FutureWarning)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("bitsandbytes.backends.cpu.ops", "another line"),
        ("theirs", kernel),
    ]
    assert [(warning.category, str(warning.message)) for warning in recwarn] == [
        (UserWarning, old),
        (FutureWarning, "`gradient_checkpointing` is deprecated"),
    ]
    assert bitsandbytes.filters == before


@pytest.mark.parametrize(
    ("config", "parent"), [("SegmentSelectiveSFTConfig", "SFTConfig"), ("SegmentWeightedGRPOConfig", "GRPOConfig")]
)
def test_defaults_of_ours_and_of_trl_are_not_deprecated(config, parent, tmp_path, recwarn):
    import trl

    import trl_segment

    options = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    config = getattr(trl_segment, config)
    ours = config(**options)
    assert [str(warning.message) for warning in recwarn if "deprecated" in str(warning.message)] == []
    theirs = getattr(trl, parent)(**options)
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        assert getattr(ours, name) == getattr(theirs, name)
    # What a person sets under the old name is answered as before, and works
    with pytest.warns(FutureWarning, match="gradient_checkpointing"):
        off = config(**options, gradient_checkpointing=False)
    assert off.activation_checkpointing is off.gradient_checkpointing is False
    new = config(**options, activation_checkpointing=False)
    assert new.activation_checkpointing is new.gradient_checkpointing is False
