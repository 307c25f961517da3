"""Places at which a reasoning states the answer, and the sequence without them."""

import itertools

import numpy as np
import pytest
from helpers import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_segment.traces import attributed_sequence, build_trace
from trl_segment.traces.statements import find_statements


def stated(text, answer):
    return [text[start:end] for start, end in find_statements(text, answer)]


@pytest.mark.parametrize(
    ("text", "answer", "places"),
    [
        ("half of 96 is 48, so x = 48.0, not 480 or 148 or 4,800", "48", ["48", "48.0"]),
        # Part of something else: an index, an exponent, a coefficient, a decimal, a fraction
        ("x_5, x^5, a_{5}, 5y, 2.5, 1/5, 5/2, y5, \\frac{5}{2}, 5\\sqrt{2}", "5", []),
        ("the sum is5. So 5cm, 5 cm, \\boxed{5}, five, $5$, twenty-five", "5", ["5", "5", "5", "5", "five", "5"]),
        ("one of them is 1", "1", ["1"]),
        ("10-5 and 10 - 5 and 5", "-5", []),
        ("x=-5, so -5 or − 5, (-5)", "-5", ["-5", "-5", "− 5", "-5"]),
        ("x=-5, but 7 - 5 = 2", "5", ["5"]),
        ("$\\frac12$, \\dfrac{1}{2}, .5, 0.50, 1/2, 1 / 2, 2/4, 11/2", r"\frac{1}{2}", None),
        ("1,000 or 1000 or 1\\,000 or 1{,}000, not 1,000,000", "1000", ["1,000", "1000", "1\\,000", "1{,}000"]),
        ("50\\% or 0.5", "50\\%", ["50"]),
        ("so $3 \\sqrt{13}$, 3\\sqrt{13}, 13\\sqrt{13}", "3\\sqrt{13}", ["3 \\sqrt{13}", "3\\sqrt{13}"]),
        ("x \\in \\left[ -2, 7 \\right]", "x \\in [-2,7]", ["x \\in \\left[ -2, 7 \\right]"]),
        ("Evelyn runs, says evelyn. Evelyns", "\\text{Evelyn}", ["Evelyn", "evelyn"]),
        ("A man in (A) chose option A, \\text{A}: answer is A. AB", "A", ["(A)", "A", "A", "A"]),
        # Parts: all of them close together, in any order
        ("(3, 4); x=3. Far from it, after very many more words, y = 4, x = 3", "(3,4)", ["(3, 4)", "4", "3"]),
        ("a=1 and b=2. b is 2 while a is 1. a=1, b=3", "a=1, b=2", ["a=1", "b=2", "b is 2", "a is 1"]),
        ("ruby and jade; ruby with jade; jade, ruby", "a=ruby, b=jade", ["ruby and jade"]),
        ("x=2 is one root. The other is found later: x=3", "x=2, x=3", []),
        ("", "5", []),
        ("5", "", []),
    ],
)
def test_places(text, answer, places):
    found = stated(text, answer)
    if places is None:
        places = ["\\frac12", "\\dfrac{1}{2}", ".5", "0.50", "1/2", "1 / 2", "2/4"]
    assert found == places


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="15-,./ {}()\\frac=xa$^_and%\n", max_size=80), st.text(alphabet="15-,./{}()\\=xa ", max_size=9)
)
def test_places_are_in_order_apart_and_inside(text, answer):
    found = find_statements(text, answer)
    assert all(0 <= start < end <= len(text) for start, end in found)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(found))


def trace_with(reasoning, answer="48"):
    return build_trace(
        {"prompt": "Half of 96?\n", "completion": f"<think>\n{reasoning}</think>\n\n{answer}", "answer": answer}
    )


REASONING = "Half of 96 is 48.\n\nWait, 48 it is, and 48.\n\nHowever, let me check 12. It is 48.\n"


def test_hidden_tokens_alone_change():
    tokenizer = tiny_tokenizer()
    trace = trace_with(REASONING)
    visible = attributed_sequence(trace, tokenizer)
    hidden = attributed_sequence(trace, tokenizer, answer_statements="hidden", hidden_token=0)
    assert (hidden.segments, hidden.target) == (visible.segments, visible.target)
    np.testing.assert_array_equal(hidden.spans, visible.spans)
    # By the characters, counted by hand in the text that was tokenized
    text = "Half of 96?\n" + trace.completion[: trace.reasoning[1]]
    places = [i for i in range(12, len(text)) if text[i : i + 2] == "48"]
    assert len(places) == 4
    touched = [any(a < p + 2 and b > p for p in places) for a, b in visible.spans]
    assert sum(touched) >= 4
    np.testing.assert_array_equal(hidden.input_ids, np.where(touched, 0, visible.input_ids))
    assert hidden.hidden_tokens == sum(touched) and visible.hidden_tokens == 0


def test_only_first_leaves_the_first_segment_that_states_it():
    tokenizer = tiny_tokenizer()
    trace = trace_with("Half of 96, hm.\n\nWait, 48 it is, and 48.\n\nHowever, 48.\n\nAlternatively, 48.\n")
    visible = attributed_sequence(trace, tokenizer)
    first = attributed_sequence(trace, tokenizer, answer_statements="only_first", hidden_token=0)
    changed = visible.input_ids != first.input_ids
    assert [bool(changed[start:end].any()) for start, end in visible.segments] == [False, False, True, True]


def test_question_and_answer_stay():
    """The question holds the answer's number too, and the target is the answer."""
    trace = build_trace(
        {"prompt": "Is it 48?\n", "completion": "<think>\nSo 48.\n\nWait, 48.\n</think>\n\n48", "answer": "48"}
    )
    tokenizer = tiny_tokenizer()
    visible = attributed_sequence(trace, tokenizer)
    hidden = attributed_sequence(trace, tokenizer, answer_statements="hidden", hidden_token=0)
    inside = slice(visible.segments[0][0], visible.segments[-1][1])
    outside = np.ones(len(visible.input_ids), dtype=bool)
    outside[inside] = False
    np.testing.assert_array_equal(hidden.input_ids[outside], visible.input_ids[outside])
    assert (hidden.input_ids[inside] != visible.input_ids[inside]).any()


def test_what_cannot_be_hidden_is_an_error():
    trace = trace_with(REASONING)
    with pytest.raises(ValueError, match="Unknown `answer_statements` 'all'"):
        attributed_sequence(trace, tiny_tokenizer(), answer_statements="all", hidden_token=0)
    with pytest.raises(ValueError, match="names neither a pad nor an eos token"):
        attributed_sequence(trace, tiny_tokenizer(), answer_statements="hidden")
