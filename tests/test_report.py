"""The view of a trace in the terminal."""

import pytest


pytest.importorskip("rich")

from rich.console import Console

from trl_segment import SelectionConfig, build_trace
from trl_segment.attribution.store import StoredAttribution
from trl_segment.report.terminal import render_trace
from trl_segment.report.text import printable


def show(trace, row, **options):
    console = Console(width=160, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_trace("t", trace, row, SelectionConfig(**options)))
    return console.export_text(styles=False), console.export_text(styles=True)


def test_hostile_text_is_written_out():
    assert printable("a\x1b]0;owned\x07b\u202ec\x9b31m\td\r\ne") == "a\\x1b]0;owned\\x07b\\u202ec\\x9b31m\td\ne"
    assert printable("Ünïcode, 中文, עברית, 🙂") == "Ünïcode, 中文, עברית, 🙂"


def test_a_trace_cannot_style_or_control_the_terminal():
    solution = "Start [red]x[/red] \x1b[2J\x1b[31m.\n\nWait, [link=http://a]b[/link].\n\nHowever, c.</think>\\boxed{4}"
    trace = build_trace({"question": "?", "solution": solution, "answer": "\x1b[1m4"})
    row = StoredAttribution("k", "n", None, [4, 4, 4], [5.0, 1.0, 2.0], [1.0, 1.0, -1.0], 20, -1.0, -3.0, 0.1, 9)
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
    row = StoredAttribution(
        "k", "n", None, [1, 1, 1, 1], [4.0, 3.0, 2.0, 1.0], [0.4, 3.0, 0.0, 0.0], 9, -1.0, -3.0, 0.1, 9
    )
    plain, _ = show(trace, row, keep_first=0, keep_last=1)
    lines = [line.split() for line in plain.splitlines() if line.strip()[:1].isdigit()]
    verdicts = [" ".join(line[6:]) for line in lines[:4]]
    assert verdicts[0].startswith("kept One.")
    assert verdicts[1].startswith("dropped, one-sided")
    assert verdicts[2].startswith("dropped, weak")
    assert verdicts[3].startswith("kept, always")
    assert "kept 2 of 4 segments" in plain
