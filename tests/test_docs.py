"""The option tables of the documentation against the configuration itself."""

import dataclasses
import re
from pathlib import Path

import pytest
from trl import SFTConfig

from trl_segment import SegmentSelectiveSFTConfig, SelectionConfig
from trl_segment.cli.inspect import InspectArguments
from trl_segment.cli.report import ReportArguments


USAGE = (Path(__file__).resolve().parents[1] / "docs" / "usage.md").read_text(encoding="utf-8")
THEIRS = {field.name for field in dataclasses.fields(SFTConfig)}
OURS = [field for field in dataclasses.fields(SegmentSelectiveSFTConfig) if field.name not in THEIRS]


@pytest.mark.parametrize("option", OURS, ids=lambda option: option.name)
def test_every_option_has_a_line_with_its_default(option):
    lines = [line for line in USAGE.splitlines() if re.match(rf"\| (`\w+`, )*`{option.name}`[ ,]", line)]
    assert len(lines) == 1
    names, default = (cell.strip() for cell in lines[0].split(" | ")[:2])
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
        position = re.findall(r"`(\w+)`", names).index(option.name)
        assert float(default.split(",")[position]) == option.default
    elif isinstance(option.default, bool):
        assert default == str(option.default).lower()
    elif isinstance(option.default, str) and len(option.default) < 30:
        assert default == f"`{option.default}`"


@pytest.mark.parametrize(
    ("heading", "arguments"), [("Looking at a trace", InspectArguments), ("Looking at a dataset", ReportArguments)]
)
def test_every_option_of_a_command_has_a_line_in_its_section(heading, arguments):
    section = USAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    elsewhere = {field.name for field in dataclasses.fields(SelectionConfig)} | {"attributions", "dataset_text_field"}
    for option in dataclasses.fields(arguments):
        if option.name in elsewhere:
            continue
        (line,) = [line for line in section.splitlines() if re.match(rf"\| (`\w+`, )*`{option.name}`[ ,]", line)]
        if isinstance(option.default, str):
            assert line.split(" | ")[1].strip() == f"`{option.default}`"


def test_every_test_that_the_compatibility_page_names_is_there():
    tests = Path(__file__).resolve().parent
    page = (tests.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"\b([A-Z])(?: is)? `(test_\w+\.py)`", page))
    assert set(files) == set("CATO")
    named = re.findall(r"\| ([A-Z])::(test_\w+) \|", page)
    assert len(named) > 30
    missing = [
        name for letter, name in named if f"def {name}(" not in (tests / files[letter]).read_text(encoding="utf-8")
    ]
    assert missing == []
