"""The view of a trace in the terminal."""

import time

import pytest


pytest.importorskip("rich")

from helpers import make_rows, tiny_model, tiny_tokenizer
from rich.console import Console

from trl_segment import AttributionConfig, AttributionStore, SelectionConfig, attribute_traces, build_trace
from trl_segment.attribution import SCORERS, attribution_settings
from trl_segment.printing import printable
from trl_segment.report.terminal import render_trace
from trl_segment.selection import select
from trl_segment.store import StoredAttribution


def make_row(num_tokens, sum_abs, sum_signed, **changes):
    numbers = {"f_input": -1.0, "f_baseline": -3.0, "completeness_gap": 0.1, "evaluations": 9}
    return StoredAttribution("k", "n", None, num_tokens, sum_abs, sum_signed, **{**numbers, **changes})


def show(trace, row, **options):
    console = Console(width=160, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_trace("t", trace, row, SelectionConfig(**{"consistency_scale": "absolute", **options})))
    return console.export_text(styles=False), console.export_text(styles=True)


def test_hostile_text_is_written_out():
    assert printable("a\x1b]0;owned\x07b\u202ec\x9b31m\td\r\ne") == "a\\x1b]0;owned\\x07b\\u202ec\\x9b31m\td\ne"
    assert printable("Ünïcode, 中文, עברית, 🙂") == "Ünïcode, 中文, עברית, 🙂"


def test_a_trace_cannot_style_or_control_the_terminal():
    solution = "Start [red]x[/red] \x1b[2J\x1b[31m.\n\nWait, [link=http://a]b[/link].\n\nHowever, c.</think>\\boxed{4}"
    trace = build_trace({"question": "?", "solution": solution, "answer": "\x1b[1m4"})
    row = make_row([4, 4, 4], [5.0, 1.0, 2.0], [1.0, 1.0, -1.0])
    plain, styled = show(trace, row)
    assert "[red]x[/red]" in plain
    assert "[link=http://a]b[/link]" in plain
    assert "\\x1b[2J" in plain
    assert "\x1b[2J" not in styled
    assert "\x1b[31m" not in styled


def test_verdicts_by_hand():
    solution = "One.\n\nWait, two.\n\nWait, three.\n\nWait, four.</think>\\boxed{4}"
    trace = build_trace({"question": "?", "solution": solution})
    # strengths 4, 3, 2, 1; tau 0.7 keeps the first two; the second is one-sided
    row = make_row([1, 1, 1, 1], [4.0, 3.0, 2.0, 1.0], [0.4, 3.0, 0.0, 0.0])
    plain, _ = show(trace, row, keep_first=0, keep_last=1)
    lines = [line.split() for line in plain.splitlines() if line.strip()[:1].isdigit()]
    verdicts = [" ".join(line[6:]) for line in lines[:4]]
    assert verdicts[0].startswith("kept One.")
    assert verdicts[1].startswith("dropped, one-sided")
    assert verdicts[2].startswith("dropped, weak")
    assert verdicts[3].startswith("kept, always")
    assert "kept 2 of 4 segments" in plain


@pytest.fixture(scope="module", params=sorted(SCORERS))
def scored(request, tmp_path_factory):
    """A trace with the row of a store that each scorer made."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    config = AttributionConfig(
        attribution_scorer=request.param, attribution_rule="midpoint", attribution_evaluations=2
    )
    folder = tmp_path_factory.mktemp("store")
    store = AttributionStore(folder, attribution_settings(model, tokenizer, config))
    trace = build_trace(make_rows(3)[2])
    attribute_traces([("t", trace)], model, tokenizer, config, store, progress=False)
    return request.param, trace, AttributionStore(folder)[trace.key]


def test_what_a_scorer_does_not_know_is_not_shown(scored):
    name, trace, row = scored
    plain, _ = show(trace, row, keep_last=1)
    # A gap of what was integrated only, as the marginal loss and its kind never were
    assert ("completeness gap" in plain) == ("baseline" in plain) == (name == "integrated_gradients")
    assert (row.sum_abs is not None) == SCORERS[name].token_attributions
    lines = [line.split() for line in plain.splitlines() if line.strip()[:1].isdigit()][: len(trace.segments)]
    assert len(lines) == len(trace.segments)
    strength = row.segment_scores.strength
    verdicts = select(row.segment_scores, SelectionConfig(keep_last=1), trace.key).verdicts
    for i, (line, verdict) in enumerate(zip(lines, verdicts, strict=True)):
        assert line[:3] == [str(i + 1), str(row.num_tokens[i]), f"{strength[i]:.4g}"]
        assert (line[4] == "–") == (line[5] == "–") == (row.sum_abs is None)
        assert " ".join(line[6:]).startswith(verdict)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"tau": 0.65, "beta": 0.75}, "tau 0.65, beta 0.75"),
        ({"consistency_scale": "chance"}, "tau 0.7, beta 0.8 (chance)"),
        ({"selection": "threshold", "min_strength": 1.5}, "strength at least 1.5, beta 0.8"),
        ({"min_direction": -0.5}, "tau 0.7, beta 0.8, direction at least -0.5"),
        ({"selection": "random"}, "drawn at random, as many as with tau 0.7, beta 0.8"),
        ({"selection": "all"}, "every segment"),
    ],
)
def test_the_header_names_the_rule_with_the_thresholds_that_it_reads(options, rule):
    trace = build_trace({"question": "?", "solution": "One.\n\nWait, two.\n\nWait, three.</think>\\boxed{4}"})
    row = make_row([1, 1, 1], [4.0, 3.0, 2.0], [0.4, 0.0, 0.0])
    plain, _ = show(trace, row, keep_first=0, keep_last=0, **options)
    (header,) = [line for line in plain.splitlines() if line.startswith("kept ")]
    assert header.rstrip().endswith(f"), {rule}")
    kept = 3 if options.get("selection") == "all" else 2
    if options.get("selection") != "threshold":
        assert header.startswith(f"kept {kept} of 3 segments")
    assert ("by chance" in plain) == (options.get("selection") == "random")
    # No bound on a direction is read where whole segments are scored
    whole = StoredAttribution("k", "n", num_tokens=[1, 1, 1], scores=[4.0, 3.0, 2.0], f_input=-1.0)
    plain, _ = show(trace, whole, keep_first=0, keep_last=0, **options)
    (header,) = [line for line in plain.splitlines() if line.startswith("kept ")]
    assert header.rstrip().endswith(f"), {rule.split(', beta')[0]}")


def test_a_trace_of_very_many_segments_is_drawn_by_its_ends():
    count = 50_000
    pieces = [f"\n\nWait, number {i}." for i in range(count)]
    trace = build_trace({"prompt": "q", "completion": f"<think>{''.join(pieces)}</think> a", "answer": "5"})
    assert len(trace.segments) == count
    row = make_row([5] * count, [1.0] * count, [0.5] * count)
    began = time.perf_counter()
    shown, _ = show(trace, row)
    assert time.perf_counter() - began < 20
    assert "number 0." in shown and "number 49999." in shown and "number 25000." not in shown
    assert "49,000 more segments" in shown


@pytest.mark.parametrize("selection", ["attribution", "threshold", "random"])
def test_a_selection_that_keeps_nothing_is_drawn(selection):
    trace = build_trace({"prompt": "q", "completion": "<think>a\n\nWait, b\n\nWait, c</think> a", "answer": "5"})
    nothing = {"keep_first": 0, "keep_last": 0, "beta": 0.0, "min_strength": 1e9, "selection": selection}
    shown, _ = show(trace, make_row([3, 3, 3], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), **nothing)
    assert "kept 0 of 3 segments" in shown
