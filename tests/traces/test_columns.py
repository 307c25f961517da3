"""Columns of datasets that are in no format of TRL's: found by name, or named by an option."""

import time

import pytest
from dataset_forms import FORMS, SEGMENTS, SUFFIX, THOUGHT, user

from trl_segment.traces import TraceConfig, build_trace, read_text


@pytest.mark.parametrize("name", FORMS)
def test_a_row_of_each_form_is_read_as_a_person_reads_it(name):
    row, prompt, reasoning, response, answer = FORMS[name]
    trace = build_trace(row)
    assert trace.problem is None
    assert (trace.prompt, trace.answer) == (prompt, answer)
    start, end = trace.reasoning
    assert trace.completion[start:end] == reasoning
    shown = trace.completion[trace.response :]
    # In gpt-oss the header of the final channel stands between them
    assert shown == response or shown.endswith(f"<|message|>{response}")
    assert [text.strip() for text in trace.segment_texts] == [text.strip() for text in SEGMENTS]
    # What is trained without segments is the same text
    assert read_text(row) == (trace.prompt, trace.completion)


def test_what_was_chosen_is_said():
    s1k = FORMS["s1K-1.1"][0]
    trace = build_trace(s1k)
    assert trace.note == (
        "'question' and 'deepseek_thinking_trajectory' and 'deepseek_attempt' were read, and "
        "'gemini_thinking_trajectory' and 'solution' not"
    )
    raw = FORMS["OpenR1-Math-Raw: the first generation that is verified and complete"][0]
    trace = build_trace(raw)
    assert trace.note == (
        "'problem' and 'generations' (the first verified one of several) were read, and 'solution' not"
    )
    assert trace.reading.endswith("; reasoning up to </think>; answer from 'answer'")
    assert build_trace(FORMS["LIMO"][0]).reading == "'question' and 'solution'; no marks; answer from 'answer'"
    assert build_trace(FORMS["OpenMathReasoning"][0]).reading.endswith("answer from 'expected_answer'")
    assert build_trace(FORMS["Magistral"][0]).reading == (
        "'messages'; reasoning up to [/THINK]; answer from the response"
    )


def test_a_reference_without_marks_loses_to_a_text_with_marks():
    marked = f"<think>{THOUGHT}</think>\\boxed{{5}}"
    trace = build_trace({"question": "q", "solution": "The reference: \\boxed{5}", "response": marked})
    assert trace.completion == marked
    trace = build_trace({"question": "q", "solution": marked, "response": "short"})
    assert trace.completion == marked


OWN = {"ask": "2 + 3?", "think_aloud": THOUGHT, "say": "It is \\boxed{5}.", "right": "five"}


def test_named_columns_are_read():
    config = TraceConfig(
        question_column="ask", reasoning_column="think_aloud", response_column="say", answer_column="right"
    )
    trace = build_trace(OWN, config)
    assert (trace.prompt, trace.answer, trace.note) == (user(f"2 + 3?{SUFFIX}"), "five", None)
    assert trace.segment_texts == SEGMENTS
    assert trace.completion == f"<think>\n{THOUGHT}\n</think>\n\nIt is \\boxed{{5}}."
    whole = {"ask": "2 + 3?", "whole": f"<think>{THOUGHT}</think>\\boxed{{5}}"}
    trace = build_trace(
        whole, TraceConfig(question_column="ask", solution_column="whole", question_template="{question}")
    )
    assert (trace.prompt, trace.answer) == (user("2 + 3?"), "5")
    assert trace.segment_texts == SEGMENTS


def test_named_columns_win_over_other_formats():
    row, *_ = FORMS["OpenR1-Math-220k"]
    trace = build_trace(row, TraceConfig(solution_column="generations"))
    assert trace.prompt == user(f"2 + 3?{SUFFIX}")
    assert trace.completion.endswith("</think>\n\n5")
    gemini = TraceConfig(reasoning_column="gemini_thinking_trajectory")
    trace = build_trace(FORMS["s1K-1.1"][0], gemini)
    assert trace.completion == "<think>\nGemini thinks.\n</think>\n\nIt is \\boxed{5}!"
    response = TraceConfig(response_column="gemini_attempt")
    assert build_trace(FORMS["s1K-1.1"][0], response).completion == trace.completion


def test_the_key_depends_on_the_text_alone():
    named = TraceConfig(question_column="ask", reasoning_column="think_aloud", response_column="say")
    known = {"question": OWN["ask"], "reasoning": OWN["think_aloud"], "response": OWN["say"]}
    assert build_trace(OWN, named).key == build_trace(known).key


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (OWN, {"solution_column": "sya"}, "`solution_column` is 'sya', and the row has no such column, only 'ask'"),
        ({"q": "q", "s": 3}, {"question_column": "q", "solution_column": "s"}, "holds a int and no text"),
        ({"q": 3, "s": "s"}, {"question_column": "q", "solution_column": "s"}, "holds a int where a question belongs"),
        (OWN, {"solution_column": "say"}, "has no question that is known"),
        (OWN, {"question_column": "ask"}, "has no solution that is known"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_option(row, options, message):
    with pytest.raises(ValueError, match=message):
        build_trace(row, TraceConfig(**options))


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="`solution_column` 'a' holds reasoning and response in one text"):
        TraceConfig(solution_column="a", response_column="b")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"ask": None, "think_aloud": THOUGHT, "say": "\\boxed{5}"}, "no question"),
        ({"ask": "q", "think_aloud": None, "say": "\\boxed{5}"}, "no think_aloud"),
        ({"ask": "q", "think_aloud": "", "say": "\\boxed{5}"}, "no think_aloud"),
    ],
)
def test_an_empty_column_is_a_problem_of_its_row_alone(row, problem):
    config = TraceConfig(question_column="ask", reasoning_column="think_aloud", response_column="say")
    assert build_trace(row, config).problem == problem


def test_a_reasoning_without_a_response_is_read():
    config = TraceConfig(question_column="ask", reasoning_column="think_aloud", response_column="say")
    trace = build_trace({**OWN, "say": None, "answer": "5"}, config)
    assert (trace.problem, trace.segment_texts) == (None, SEGMENTS)


def test_hostile_columns_take_linear_time():
    seconds = []
    for size in (5_000, 40_000):
        row = {"question": "q", "answer": "5", "solution": "</think" * size, "response": "<think>\n\n" * size}
        start = time.process_time()
        build_trace({**row, "generations": ["x" * size] * 3, "reasoning": "</think>" * size})
        seconds.append(time.process_time() - start)
    assert seconds[1] < 30 * max(seconds[0], 0.05)
