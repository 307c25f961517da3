"""The option tables of `evaluate`, `generate` and `tune` in the documentation against the commands' own arguments."""

import dataclasses
import re
from pathlib import Path

import pytest

from trl_segment import SelectionConfig
from trl_segment.cli.evaluate import DecodingArguments, EvaluateArguments
from trl_segment.cli.generate import GenerateArguments
from trl_segment.cli.tune import TuneArguments


USAGE = (Path(__file__).resolve().parents[1] / "docs" / "usage.md").read_text(encoding="utf-8")


def own_options(arguments, *parents):
    theirs = {field.name: field.default for parent in parents for field in dataclasses.fields(parent)}
    for field in dataclasses.fields(arguments):
        # A parent's option counts where its default is another
        if field.name not in theirs or field.default != theirs[field.name]:
            yield field


CASES = [
    *(("Evaluating models", field) for field in own_options(EvaluateArguments)),
    *(("Making traces", field) for field in own_options(GenerateArguments, DecodingArguments)),
    *(("Choosing thresholds", field) for field in own_options(TuneArguments, SelectionConfig)),
]
# As in training and attribution, where their tables are
_ELSEWHERE = {"dataset_text_field", "chat_template_path", "trust_remote_code"}


@pytest.mark.parametrize(("heading", "option"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_option_has_a_line_with_its_default(heading, option):
    section = USAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if re.search(rf"`{option.name}`", row[0])]
    if not rows and option.name in _ELSEWHERE:
        return
    assert len(rows) == 1
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
        names = re.findall(r"`(\w+)`", rows[0][0])
        assert float(rows[0][1].split(",")[names.index(option.name)]) == option.default
    elif isinstance(option.default, str) and len(option.default) < 30:
        assert f"`{option.default}`" in rows[0][1] or "as in training" in rows[0][1]


def test_the_docs_name_no_option_that_is_gone():
    known = {field.name for _, field in CASES} | {field.name for field in dataclasses.fields(EvaluateArguments)}
    for heading in ("Evaluating models", "Making traces", "Choosing thresholds"):
        section = USAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
        for line in section.splitlines():
            if line.startswith("| ") and not line.startswith(("| option", "| ---")):
                assert set(re.findall(r"`(\w+)`", line.split(" | ")[0])) <= known
