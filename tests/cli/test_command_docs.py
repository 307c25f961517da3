"""The option tables of the commands in the documentation against the commands' own arguments."""

import dataclasses
import re

import pytest
from helpers import REPOSITORY

from trl_segment.cli.arguments import ModelArguments, StoreArguments, StreamingDatasetArguments
from trl_segment.cli.evaluate import EvaluateArguments
from trl_segment.cli.export import ExportArguments
from trl_segment.cli.faithfulness import FaithfulnessArguments
from trl_segment.cli.generate import GenerateArguments, SamplingArguments
from trl_segment.cli.inspect import InspectArguments
from trl_segment.cli.quality import QualityArguments
from trl_segment.cli.report import ReportArguments
from trl_segment.cli.solving import DecodingArguments, ProblemArguments
from trl_segment.cli.tune import TuneArguments, TuneStoreArguments


USAGE = (REPOSITORY / "docs" / "usage.md").read_text(encoding="utf-8")


def own_options(arguments, *parents):
    theirs = {field.name: field.default for parent in parents for field in dataclasses.fields(parent)}
    for field in dataclasses.fields(arguments):
        # A parent's option counts where its default is another
        if field.name not in theirs or field.default != theirs[field.name]:
            yield field


CASES = [
    *(("Evaluating models", field) for field in own_options(EvaluateArguments)),
    *(("Evaluating models", field) for field in own_options(ProblemArguments)),
    *(("Evaluating models", field) for field in own_options(DecodingArguments)),
    *(("Making traces", field) for field in own_options(GenerateArguments)),
    *(("Making traces", field) for field in own_options(SamplingArguments, DecodingArguments)),
    *(("Choosing thresholds", field) for field in own_options(TuneArguments)),
    *(("Choosing thresholds", field) for field in own_options(TuneStoreArguments, StoreArguments)),
    *(("A selection against known roles", field) for field in own_options(QualityArguments)),
    *(("Does a selection beat chance?", field) for field in own_options(FaithfulnessArguments)),
    *(("Looking at a trace", field) for field in own_options(InspectArguments)),
    *(("Looking at a dataset", field) for field in own_options(ReportArguments)),
    *(("Handing the selection to another trainer", field) for field in own_options(ExportArguments)),
    *(("What all commands share", field) for field in own_options(StreamingDatasetArguments)),
    *(("What all commands share", field) for field in own_options(ModelArguments)),
    *(("What all commands share", field) for field in own_options(StoreArguments)),
]


@pytest.mark.parametrize(("heading", "option"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_option_has_a_line_with_its_default(heading, option):
    section = USAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if re.search(rf"`{option.name}`", row[0])]
    if option.name == "dataset_streaming":
        assert "also take `dataset_streaming`" in section
        return
    assert len(rows) == 1
    if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
        names = re.findall(r"`(\w+)`", rows[0][0])
        assert float(rows[0][1].split(",")[names.index(option.name)]) == option.default
    elif isinstance(option.default, str) and len(option.default) < 30:
        assert f"`{option.default}`" in rows[0][1] or "as in training" in rows[0][1]


def test_the_docs_name_no_option_that_is_gone():
    known = {field.name for _, field in CASES}
    for heading in dict.fromkeys(heading for heading, _ in CASES):
        section = USAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
        for line in section.splitlines():
            if line.startswith("| ") and not line.startswith(("| option", "| ---")):
                assert set(re.findall(r"`(\w+)`", line.split(" | ")[0])) <= known
