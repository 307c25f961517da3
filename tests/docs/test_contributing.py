"""The examples of CONTRIBUTING.md, run and compared with something independent; so is what it says of the house."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, make_rows, tiny_model, tiny_tokenizer
from test_docs_blocks import blocks_of

from trl_segment import AttributionConfig, AttributionStore, IntegratedGradients, attribute_traces, build_trace
from trl_segment.attribution import RULES, SCORERS, attribution_settings
from trl_segment.traces import SEGMENTERS, TraceConfig, attributed_sequence


PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = [
    (block.title, block.text) for block in blocks_of(REPOSITORY / "CONTRIBUTING.md") if block.language == "python"
]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the blocks of the page define, run in an empty folder; the tables are then as they were."""
    monkeypatch.chdir(tmp_path)
    names, tables = {}, [(table, dict(table)) for table in (RULES, SCORERS)]
    try:
        for title, text in BLOCKS:
            if title:
                Path(title).write_text(text, encoding="utf-8")
            exec(compile(text, "CONTRIBUTING.md", "exec"), names)
        yield names
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture(scope="module")
def traces():
    return [(f"row {i}", build_trace(row)) for i, row in enumerate(make_rows(2))]


def test_there_is_an_example_of_each():
    assert [title for title, _ in BLOCKS] == [None, None, "numbered.py", None]


@pytest.mark.parametrize("evaluations", [1, 2, 5, 8])
def test_the_rule_is_exact_for_polynomials(names, evaluations):
    nodes, weights = names["fejer"](evaluations)
    for degree in range(evaluations):
        assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-13)
    assert (weights > 0).all()


def test_the_rule_is_known_to_the_engine(names, model, tokenizer, traces):
    sequence = attributed_sequence(traces[0][1], tokenizer)
    span = (sequence.input_ids, sequence.target, sequence.segments)
    ours = IntegratedGradients(model, rule="fejer", evaluations=48).attribute(*span)
    theirs = IntegratedGradients(model, rule="gauss_legendre", evaluations=48).attribute(*span)
    assert ours.evaluations == 48
    assert np.abs(ours.tokens - theirs.tokens).max() < 0.02 * np.abs(theirs.tokens).max()


def test_the_scorer_scores_what_its_docstring_says(names, model, tokenizer, traces, tmp_path):
    config = AttributionConfig(attribution_scorer="leave_one_out")
    store = AttributionStore(tmp_path / "store", attribution_settings(model, tokenizer, config))
    assert attribute_traces(traces, model, tokenizer, config, store).attributed == len(traces)
    assert AttributionStore(tmp_path / "store").settings.scorer == "leave_one_out"
    for _, trace in traces:
        sequence = attributed_sequence(trace, tokenizer)
        start, end = sequence.target
        ids = torch.as_tensor(sequence.input_ids)

        def log_probability(cut, ids=ids, start=start, end=end):
            kept = torch.cat([ids[: cut[0]], ids[cut[1] : end]])
            with torch.no_grad():
                log_probs = model(input_ids=kept[None]).logits[0].log_softmax(-1)
            answer = range(len(kept) - (end - start), len(kept))
            return sum(float(log_probs[i - 1, kept[i]]) for i in answer)

        whole = log_probability((0, 0))
        expected = [max(whole - log_probability(segment), 0) for segment in sequence.segments]
        row = store[trace.key]
        assert row.f_input == pytest.approx(whole, abs=1e-4)
        assert row.scores == pytest.approx(expected, abs=1e-4)
        assert row.num_tokens == [b - a for a, b in sequence.segments]
        assert max(row.scores) > 0


def test_the_segmenter_is_taken_by_its_file(names):
    row = {"question": "?", "solution": "<think>\nFirst.\n1. Two.\n2. Three.\n</think>\n\\boxed{4}", "answer": "4"}
    trace = build_trace(row, TraceConfig(segmenter="numbered.py:by_number"))
    assert trace.segment_texts == ["\nFirst.\n", "1. Two.\n", "2. Three.\n"]


def test_the_rooms_that_it_names_are_there():
    rooms = re.findall(r"`((?:\w+/)+\w+\.py|docs/\w+\.md)`", PAGE)
    assert len(rooms) > 10
    missing = [
        room
        for room in rooms
        if not (REPOSITORY / "trl_segment" / room).is_file() and not (REPOSITORY / room).is_file()
    ]
    assert missing == []
    floors = re.findall(r"^\| (\d) \| `(\w+)/` \|", PAGE, re.MULTILINE)
    packages = {path.parent.name for path in (REPOSITORY / "trl_segment").glob("*/__init__.py")}
    assert {name for _, name in floors} == packages


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "AGENTS.md"])
def test_its_make_targets_are_there(name):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    page = (REPOSITORY / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)|`make (\w+)`", page, re.MULTILINE))
    assert {"test", "quick"} <= {first or second for first, second in targets}
    assert all(re.search(rf"^{first or second}:", makefile, re.MULTILINE) for first, second in targets)


def test_agents_are_sent_to_pages_that_are_there():
    page = (REPOSITORY / "AGENTS.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", page)
    assert "CONTRIBUTING.md" in links
    assert all((REPOSITORY / link).is_file() for link in links)


def test_the_names_of_the_page_are_those_of_the_code():
    assert "_PATTERNS" in PAGE and "regex" in SEGMENTERS
    source = (REPOSITORY / "trl_segment" / "traces" / "segmentation.py").read_text(encoding="utf-8")
    assert re.search(r"^_PATTERNS = \{", source, re.MULTILINE)
    base = SCORERS["random"].__mro__[1]
    assert all(hasattr(base, name) for name in ("from_config", "learn", "most_evaluations", "options"))
