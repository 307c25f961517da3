"""The option tables of the documentation and the docstrings of configs against the configuration itself."""

import configparser
import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest
from helpers import REPOSITORY
from trl import SFTConfig

import trl_segment
from trl_segment import AttributionConfig, SegmentSelectiveSFTConfig, SegmentWeightedGRPOConfig, SelectionConfig
from trl_segment.cli.inspect import InspectArguments
from trl_segment.cli.report import ReportArguments


USAGE = (REPOSITORY / "docs" / "usage.md").read_text(encoding="utf-8")
PAGES = [
    path
    for path in (
        REPOSITORY / "README.md",
        *sorted(REPOSITORY.glob("[de]*/**/*.md")),
        *REPOSITORY.glob("benchmarks/*.*"),
    )
    if "tests/" in path.read_text(encoding="utf-8")
]
WITH_TABLES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md")),
    *sorted(REPOSITORY.glob("[de]*/**/*.md")),
]
THEIRS = {field.name for field in dataclasses.fields(SFTConfig)}
OURS = [field for field in dataclasses.fields(SegmentSelectiveSFTConfig) if field.name not in THEIRS]


@pytest.mark.parametrize("option", OURS, ids=lambda option: option.name)
def test_every_option_has_a_line_with_its_default(option):
    # Commands that judge a selection have options of the same name further down
    of_training = USAGE.split("\n## Does a selection beat chance?\n")[0]
    lines = [line for line in of_training.splitlines() if re.match(rf"\| (`\w+`, )*`{option.name}`[ ,]", line)]
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


def test_every_option_of_segment_weights_has_a_line_with_its_default():
    section = USAGE.split("\n## Segment weights in GRPO\n")[1].split("\n## ")[0]
    lines = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section, re.MULTILINE))
    own = [
        f for f in dataclasses.fields(SegmentWeightedGRPOConfig) if f.name in SegmentWeightedGRPOConfig.__annotations__
    ]
    assert lines == {f.name: str(f.default).lower() for f in own}


def test_every_test_that_the_compatibility_page_names_is_there():
    tests = REPOSITORY / "tests" / "trainer"
    page = (REPOSITORY / "docs" / "compatibility.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"\b([A-Z])(?: is)? `(test_\w+\.py)`", page))
    assert set(files) == set("CATO")
    named = re.findall(r"\| ([A-Z])::(test_\w+) \|", page)
    assert len(named) > 30
    missing = [
        name for letter, name in named if f"def {name}(" not in (tests / files[letter]).read_text(encoding="utf-8")
    ]
    assert missing == []
    # Whole files, by their place in tests/ or, of the trainer, by their name
    for file in re.findall(r"`((?:\w+/)?test_\w+\.py)`", page):
        assert (REPOSITORY / "tests" / file).exists() or (tests / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_test_file_that_a_page_names_is_there(page):
    for file in re.findall(r"\btests/[\w/]+\.py\b", page.read_text(encoding="utf-8")):
        assert (REPOSITORY / file).exists(), file


def cut_tables(text: str) -> list[str]:
    """What is wrong with the tables of a page: a table is a header, a line of dashes, and rows of as many cells."""
    problems, block = [], []
    # Tables in code are none
    text = re.sub(
        r"^( *)```.*?^\1```$", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE
    )
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("|"):
            block.append((number, line.strip()))
            continue
        if block:
            first = block[0][0]
            # A bar in code belongs to its cell if it is escaped
            widths = {len(re.split(r"(?<!\\)\|", row)[1:-1]) for _, row in block}
            if len(block) < 3 or not re.fullmatch(r"\|( *:?-+:? *\|)+", block[1][1]):
                problems.append(f"line {first}: rows without a header, or a header without rows")
            if len(widths) > 1 or any(not row.endswith("|") for _, row in block):
                problems.append(f"line {first}: rows of {sorted(widths)} cells")
        block = []
    return problems


@pytest.mark.parametrize("page", WITH_TABLES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_table_is_whole(page):
    assert cut_tables(page.read_text(encoding="utf-8")) == []


def test_cut_tables_are_found():
    whole = "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert cut_tables(f"text\n\n{whole}\ntext") == []
    assert len(cut_tables(f"{whole}\n| 3 | 4 |\n")) == 1
    assert len(cut_tables(f"{whole}| 3 |\n")) == 1
    assert cut_tables("```text\n| 3 | 4 |\n```\n") == []


def test_the_figures_of_the_readme_are_those_of_the_pages():
    """The README repeats a few; where they are from, they stand too."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md")}
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    known = readme.split("**What is known**")[1].split("\n\n")[1].splitlines()[2:]
    sources = pages["evidence"] + pages["selection_rules"]
    figures = [
        figure
        for line in known
        for figure in re.findall(r"\d[\d,]*\.\d+|\.\d+|\d{1,3}(?:,\d{3})+|\d{3,}", " ".join(line.split("|")[3:]))
    ]
    assert len(figures) > 5
    assert [figure for figure in figures if figure not in sources] == []
    costs = readme.split("**What attribution costs**")[1].split("\n\n")[1].splitlines()[2:]
    assert len(costs) == 2
    for line in costs:
        model, *hours = (cell.strip() for cell in line.strip("|").split("|"))
        rows = re.findall(rf"^\| {model} \(\w+\)(?: \| [^|]+){{9}} \|$", pages["cost"], re.MULTILINE)
        assert hours == [row.split("|")[5].strip() for row in rows]


def test_every_extra_has_a_line_on_the_page_of_the_installation():
    text = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(config["options.extras_require"])
    assert re.findall(r"^\| `\[(\w+)\]` \|", text, re.MULTILINE) == list(config["options.extras_require"])


def test_what_the_page_on_limits_quotes_is_printed():
    text = (REPOSITORY / "docs" / "when_it_does_not_help.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    quoted = [quote for line in rows for quote in re.findall(r"`([A-Z][^`]{8,})`", line)]
    assert len(quoted) > 2
    source = " ".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "trl_segment").rglob("*.py"))
    assert [quote for quote in quoted if quote not in re.sub(r"\"\s+f?\"", "", source)] == []


def configs():
    """Every config, settings and arguments class of the package."""
    for module in pkgutil.walk_packages(trl_segment.__path__, "trl_segment."):
        for name, value in vars(importlib.import_module(module.name)).items():
            public = re.fullmatch(r"[A-Z]\w*(Config|Settings|Arguments)", name)
            if public and dataclasses.is_dataclass(value) and value.__module__ == module.name:
                yield value


@pytest.mark.parametrize("config", list(configs()), ids=lambda config: config.__name__)
def test_every_field_of_a_config_is_in_its_docstring(config):
    own = [field.name for field in dataclasses.fields(config) if field.name in config.__annotations__]
    entries = re.findall(r"^ *(\w+) \(", inspect.getdoc(config), re.MULTILINE)
    assert [name for name in own if name not in entries] == []
    # and nothing else is, so that the docstring of a field that is gone goes with it
    assert [name for name in entries if name not in {field.name for field in dataclasses.fields(config)}] == []


@pytest.mark.parametrize("config", [SegmentSelectiveSFTConfig, SegmentWeightedGRPOConfig])
def test_the_docstring_of_the_trainers_config_names_what_it_inherits(config):
    text = inspect.getdoc(config)
    inherited = [*dataclasses.fields(SelectionConfig), *dataclasses.fields(AttributionConfig)]
    assert len(inherited) > 20
    own = config.__annotations__
    assert [f.name for f in inherited if f"`{f.name}`" not in text and f.name not in own] == []


def test_every_promise_names_a_test_that_there_is():
    text = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `([\w/]+\.py)(?:::(\w+))?` \|$", text, flags=re.MULTILINE)
    promises = re.findall(r"^\| (?!promise|---).*\|$", text, flags=re.MULTILINE)
    assert len(named) == len(promises) > 20
    for file, name in named:
        assert f"def {name or 'test_'}" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8"), (file, name)
