import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_segment.traces import (
    PAPER_KEYWORDS,
    RETRO_SEARCH_KEYWORDS,
    SEGMENTERS,
    TraceConfig,
    build_trace,
    check_segmenter,
    segment_text,
    segmentation,
)


# Pieces that meet every rule and miss every rule narrowly
_PIECES = st.sampled_from(
    [
        *RETRO_SEARCH_KEYWORDS,
        *("\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " ", "\t", "\u2028", "\x0b"),
        *("ing", "s", "_", ",", ".", "5", "é", "的", "😀", "wait", "so it is"),
    ]
)
_TEXTS = st.lists(_PIECES, max_size=25).map("".join) | st.text(max_size=40)


def pieces(text, *args, **kwargs):
    return [text[start:end] for start, end in segment_text(text, *args, **kwargs)]


def newline_before(text, position):
    """Where the newline that ends at `position` starts, or `None`."""
    if position >= 2 and text[position - 2 : position] == "\r\n":
        return position - 2
    return position - 1 if position >= 1 and text[position - 1] == "\n" else None


def starts_by_keyword_scan(text, keywords):
    """Walk over all characters: where does an opener stand, as a whole word, right behind two newlines?"""
    starts = {0} if text else set()
    for position in range(len(text)):
        for keyword in keywords:
            behind = position + len(keyword)
            if text[position:behind] != keyword:
                continue
            if behind < len(text) and (text[behind].isalnum() or text[behind] == "_"):
                continue
            first = newline_before(text, position)
            second = None if first is None else newline_before(text, first)
            if second is not None:
                starts.add(second)
    return sorted(starts)


def starts_by_paragraph_scan(text):
    starts = {0} if text else set()
    for position, character in enumerate(text):
        if character.isspace():
            continue
        start, newlines = position, 0
        while (before := newline_before(text, start)) is not None:
            start, newlines = before, newlines + 1
        if newlines >= 2:
            starts.add(start)
    return sorted(starts)


@given(text=_TEXTS, segmenter=st.sampled_from([*SEGMENTERS, str.splitlines, list]))
def test_segments_cover_the_text_without_gap_or_overlap(text, segmenter):
    if segmenter is str.splitlines:
        segments = segment_text(text, lambda t: t.splitlines(keepends=True))
    else:
        segments = segment_text(text, segmenter, r"(?<=[.\n])" if segmenter == "regex" else None)
    position = 0
    for start, end in segments:
        assert start == position < end
        position = end
    assert position == len(text)


@given(text=_TEXTS)
@pytest.mark.parametrize(
    ("segmenter", "keywords"), [("keywords", PAPER_KEYWORDS), ("retro_search", RETRO_SEARCH_KEYWORDS)]
)
def test_keyword_segments_start_where_a_character_scan_says(segmenter, keywords, text):
    assert [start for start, _ in segment_text(text, segmenter)] == starts_by_keyword_scan(text, keywords)


@given(text=_TEXTS)
def test_paragraphs_start_where_a_character_scan_says(text):
    assert [start for start, _ in segment_text(text, "paragraphs")] == starts_by_paragraph_scan(text)


def test_paper_keywords_are_the_published_ones():
    published = (
        "Wait, Alternatively, But wait, But alternatively, But just to, However, Not sure, Going back, Backtrack, "
        "Trace back, Another"
    )
    assert sorted(PAPER_KEYWORDS) == sorted(published.split(", "))
    assert sorted(RETRO_SEARCH_KEYWORDS) == sorted([*published.split(", "), "But", "Hmm", "Hmmm"])


@pytest.mark.parametrize("keyword", PAPER_KEYWORDS)
def test_every_paper_keyword_opens_a_segment(keyword):
    assert pieces(f"First.\n\n{keyword}, second.") == ["First.", f"\n\n{keyword}, second."]


def test_blank_line_goes_with_the_segment_it_opens():
    assert pieces("2 + 2 = 5.\n\nWait, it is 4.\n\nDone.") == ["2 + 2 = 5.", "\n\nWait, it is 4.\n\nDone."]


def test_text_without_opener_is_one_segment():
    assert pieces("One.\n\nTwo.\nWait, no blank line. Wait\n\nwait") == [
        "One.\n\nTwo.\nWait, no blank line. Wait\n\nwait"
    ]


def test_leading_blank_line_makes_no_empty_segment():
    assert pieces("\n\nWait, a.\n\nHowever, b.") == ["\n\nWait, a.", "\n\nHowever, b."]


def test_third_newline_stays_with_the_segment_before():
    assert pieces("a\n\n\nWait, b") == ["a\n", "\n\nWait, b"]


@pytest.mark.parametrize("blank", ["\r\n\r\n", "\n\r\n", "\r\n\n"])
def test_windows_newlines_count(blank):
    assert pieces(f"a.{blank}Wait, b") == ["a.", f"{blank}Wait, b"]
    assert pieces(f"a.{blank}b", "paragraphs") == ["a.", f"{blank}b"]


@pytest.mark.parametrize("text", ["a\n\nWaiting", "a\n\nAnothers", "a\n\nWait_b", "a\n\nBut waits", "a\n\nWait5"])
def test_keyword_must_end_as_a_word(text):
    assert pieces(text) == [text]


@pytest.mark.parametrize("text", ["a\n\n Wait", "a\n \nWait", "a\n\n**Wait**", "a\n\nwait", "a\nWait", "a\r\rWait"])
def test_keyword_must_stand_right_behind_a_blank_line(text):
    assert pieces(text) == [text]


def test_wider_list_also_cuts_at_but_and_hmm():
    text = "a\n\nBut b\n\nHmm, c\n\nHmmm, d\n\nButter"
    assert pieces(text, "retro_search") == ["a", "\n\nBut b", "\n\nHmm, c", "\n\nHmmm, d\n\nButter"]
    assert pieces(text, "keywords") == [text]


def test_paragraphs_are_cut_at_every_blank_line_before_text():
    assert pieces("a\nb\n\nc\n\n\n\nd\n\n", "paragraphs") == ["a\nb", "\n\nc", "\n\n\n\nd\n\n"]


def test_regex_cuts_where_it_matches():
    assert pieces("Step 1: a\nStep 2: b\nStep 30", "regex", r"(?m)^Step \d+") == [
        "Step 1: a\n",
        "Step 2: b\n",
        "Step 30",
    ]
    assert pieces("x.y.", "regex", r"\.") == ["x", ".y", "."]
    assert pieces("xy", "regex", "$") == ["xy"]
    assert pieces("xy", "regex", "z") == ["xy"]


def test_a_pattern_that_never_ends_is_stopped_and_then_refused(monkeypatch):
    monkeypatch.setattr(segmentation, "PATTERN_SECONDS", 0.3)
    pattern, text = "(x+x+)+y", "x" * 60
    row = {"prompt": "p", "completion": f"<think>{text}</think>\\boxed{{1}}"}
    for _ in range(segmentation._MOST_SLOW_TEXTS):
        trace = build_trace(row, TraceConfig("regex", pattern))
        assert trace.problem == "`segment_pattern` takes more than 0.3 s on it"
    with pytest.raises(ValueError, match=r"took more than 0.3 s on each of 3 texts"):
        build_trace(row, TraceConfig("regex", pattern))
    assert pieces("x.y.", "regex", r"\.") == ["x", ".y", "."]


@given(text=_TEXTS, pattern=st.sampled_from([r"\n\n", "(?m)^", "$", r"(?<=a)\s", "[A-Z]", "", r"\b"]))
@settings(deadline=None, max_examples=50)
def test_a_pattern_matches_where_re_says(text, pattern):
    expected = sorted({0, *(match.start() for match in re.finditer(pattern, text))} - {len(text)}) if text else []
    assert [start for start, _ in segment_text(text, "regex", pattern or "(?:)")] == expected


@pytest.mark.parametrize("piece", ["\n", "\r\n", "\n\n ", "\n\nWait", "\n \r\n"])
def test_hostile_newlines_of_a_megabyte_are_cut(piece):
    """Not timed: a quadratic scanner would take hours."""
    text = piece * (10**6 // len(piece))
    for segmenter in SEGMENTERS[:-1]:
        assert "".join(pieces(text, segmenter)) == text


def test_callable_gives_the_pieces():
    assert segment_text("ab cd ef", lambda text: ["ab", " cd", "", " ef"]) == [(0, 2), (2, 5), (5, 8)]
    assert segment_text("ab", lambda text: (part for part in ("a", "b"))) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("segmenter", [*SEGMENTERS[:-1], lambda text: [], lambda text: [text]])
def test_empty_text_has_no_segments(segmenter):
    assert segment_text("", segmenter) == []


@pytest.mark.parametrize(
    "result", [["ab", "cd"], ["ab ", "c"], ["ab ", "cd", "!"], [], ["cd", "ab "], [(0, 5)], ["ab ", None, "cd"]]
)
def test_callable_that_loses_or_changes_text_is_refused(result):
    def lossy(text):
        return result

    with pytest.raises(ValueError, match=rf"'lossy' returned {len(result)} pieces that do not join"):
        segment_text("ab cd", lossy)


@pytest.mark.parametrize("name", ["sentences", "", None, "Keywords"])
def test_unknown_segmenter_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"Unknown segmenter .*keywords, retro_search, paragraphs, regex"):
        segment_text("text", name)


def test_bad_patterns_are_refused():
    with pytest.raises(ValueError, match=r"'\(a' is not a regular expression: .*unterminated"):
        check_segmenter("regex", "(a")
    for missing in (None, ""):
        with pytest.raises(ValueError, match="needs a pattern"):
            segment_text("text", "regex", missing)
    with pytest.raises(ValueError, match="only read by the segmenter 'regex', but the segmenter is 'keywords'"):
        check_segmenter("keywords", "a")
