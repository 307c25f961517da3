import json
import os
import re
import subprocess
import sys

import pytest
from helpers import REPOSITORY

from trl_segment.traces import TraceConfig, build_trace, find_reasoning, template_kwargs


REASONING = "One plus one.\n\nWait, is it 2?\n\nHowever, yes."
COMPLETION = f"<think>\n{REASONING}\n</think>\n\nIt is \\boxed{{2}}."
USER = {"role": "user", "content": "1 + 1?"}


def reasoning_of(trace):
    return trace.completion[trace.reasoning[0] : trace.reasoning[1]]


def assistant(content):
    return {"role": "assistant", "content": content}


def check_segments(trace, texts):
    """Segments are spans of the completion that cover the reasoning."""
    assert trace.segment_texts == texts
    assert [trace.completion[a:b] for a, b in trace.segments] == texts
    assert trace.segments[0][0] == trace.reasoning[0] and trace.segments[-1][1] == trace.reasoning[1]
    assert "".join(texts) == reasoning_of(trace)


SEGMENTS = ["\nOne plus one.", "\n\nWait, is it 2?", "\n\nHowever, yes.\n"]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "1 + 1?", "completion": COMPLETION}, "1 + 1?"),
        ({"prompt": [USER], "completion": [assistant(COMPLETION)]}, [USER]),
        ({"messages": [USER, assistant(COMPLETION)]}, [USER]),
        (
            {"conversations": [{"from": "user", "value": "1 + 1?"}, {"from": "assistant", "value": COMPLETION}]},
            [USER],
        ),
        ({"conversations": [USER, {"role": "assistant", "content": COMPLETION}]}, [USER]),
        ({"text": f"Q: 1 + 1? A: {COMPLETION}"}, "Q: 1 + 1? A: "),
    ],
    ids=["prompt-completion", "prompt-completion-messages", "messages", "sharegpt", "conversations", "text"],
)
def test_every_format_becomes_the_same_trace(row, prompt):
    trace = build_trace(row)
    assert trace.problem is None
    assert (trace.prompt, trace.completion, trace.answer) == (prompt, COMPLETION, "2")
    check_segments(trace, SEGMENTS)


@pytest.mark.parametrize("column", ["question", "problem"])
def test_question_rows_get_the_paper_prompt(column):
    trace = build_trace({column: "What is {x}?", "solution": COMPLETION, "answer": "2"})
    assert trace.prompt == [
        {
            "role": "user",
            "content": "What is {x}?\nPlease reason step by step, and put your final answer within \\boxed{}.",
        }
    ]
    check_segments(trace, SEGMENTS)
    trace = build_trace({column: "Q", "solution": COMPLETION}, TraceConfig(question_template="<{question}>"))
    assert trace.prompt == [{"role": "user", "content": "<Q>"}]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_in_its_own_field_is_found(key):
    message = {"role": "assistant", "content": "It is \\boxed{2}.", key: REASONING}
    trace = build_trace({"messages": [USER, message]})
    assert trace.problem is None
    assert reasoning_of(trace) == REASONING
    assert trace.completion.index("<think>") < trace.reasoning[0]
    assert trace.completion[trace.reasoning[1] :].split("</think>")[1].strip() == "It is \\boxed{2}."
    assert trace.answer == "2"
    check_segments(trace, ["One plus one.", "\n\nWait, is it 2?", "\n\nHowever, yes."])


def test_reasoning_field_may_hold_tags():
    """The field's text is the reasoning, whatever is written in it."""
    message = {
        "role": "assistant",
        "content": "\\boxed{2}",
        "reasoning_content": "A </think> early\n\nWait, no.",
    }
    trace = build_trace({"messages": [USER, message]})
    assert reasoning_of(trace) == "A </think> early\n\nWait, no."


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": COMPLETION[:20]}, {"type": "text", "text": COMPLETION[20:]}]
    trace = build_trace({"messages": [USER, {"role": "assistant", "content": parts}]})
    assert trace.completion == COMPLETION
    check_segments(trace, SEGMENTS)


def test_empty_fields_of_arrow_messages_are_left_out():
    user = {**USER, "tool_calls": None, "reasoning_content": None}
    answer = {**assistant(COMPLETION), "tool_calls": None, "reasoning_content": None}
    trace = build_trace({"messages": [user, answer], "prompt": None, "completion": None, "answer": None})
    assert trace == build_trace({"messages": [USER, assistant(COMPLETION)]})


def test_earlier_turns_are_context():
    first = [USER, assistant("It is 3.\n\nWait, 2. \\boxed{3}"), {"role": "user", "content": "Sure?"}]
    expected = build_trace({"messages": [*first, assistant(COMPLETION)]})
    assert expected.prompt == first and expected.completion == COMPLETION and expected.answer == "2"
    split = build_trace({"prompt": first[:1], "completion": [*first[1:], assistant(COMPLETION)]})
    assert split == expected


@pytest.mark.parametrize("text", ["One.\n\nWait, two.\n#### 2", "One.\n\nWait, two.</think>\\boxed{2}"])
def test_text_that_does_not_say_where_the_response_begins_is_named(text):
    trace = build_trace({"text": text})
    assert trace.problem == "plain text that does not say where the response begins"
    trace = build_trace({"body": text}, TraceConfig(reasoning_start=""), text_column="body")
    assert (trace.prompt, trace.completion, trace.problem, trace.answer) == ("", text, None, "2")
    assert reasoning_of(trace).startswith("One.")


def test_earlier_formats_win():
    row = {"prompt": "p", "completion": COMPLETION, "messages": [USER], "text": "t", "question": "q", "solution": "s"}
    assert build_trace(row).prompt == "p"
    del row["prompt"]
    assert build_trace(row).prompt == []
    del row["messages"]
    assert build_trace(row).completion == "t"
    del row["text"]
    assert build_trace(row).completion == "s"


@pytest.mark.parametrize(
    ("completion", "reasoning"),
    [
        ("<think>a</think>b", "a"),
        ("<think>\na\n</think>\n\nb", "\na\n"),
        ("\n <think>a</think>b", "a"),
        ("a</think>b", "a"),
        ("</think>b", ""),
        ("<think>a, and cut", "a, and cut"),
        ("no tags", "no tags"),
        ("<think>a</think>b</think>c", "a"),
        ("<think></think>b", ""),
        ("", ""),
        ("<thinker>a", "<thinker>a"),
    ],
)
def test_reasoning_is_found_by_its_tags(completion, reasoning):
    found = find_reasoning(completion)
    assert completion[found.start : found.end] == reasoning


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "p", "completion": "<think></think>\\boxed{2}"}, "no reasoning"),
        ({"prompt": "p", "completion": "<think> \n</think>\\boxed{2}"}, "no reasoning"),
        ({"prompt": "p", "completion": ""}, "no reasoning"),
        ({"messages": [USER, {"role": "assistant"}]}, "no reasoning"),
        ({"prompt": "p", "completion": "<think>a\n\nWait, b</think>2"}, "no answer: .*'answer'.*boxed.*####"),
        ({"prompt": "p", "completion": COMPLETION, "answer": " "}, "the answer is empty"),
        ({"prompt": "p", "completion": "<think>a</think>\\boxed{}"}, "the answer is empty"),
        ({"messages": [USER]}, "the last message is not the assistant's"),
        ({"messages": [USER, assistant(COMPLETION), USER]}, "the last message is not the assistant's"),
        ({"prompt": [USER], "completion": []}, "the last message is not the assistant's"),
        ({"prompt": [USER], "completion": [USER]}, "the last message is not the assistant's"),
    ],
)
def test_rows_that_cannot_be_attributed_say_why(row, problem):
    trace = build_trace({"answer": "2", **row} if "answer" in problem and "assistant" in problem else row)
    assert trace.problem is not None
    assert re.match(problem, trace.problem), trace.problem


def test_no_reasoning_is_reported_before_no_answer():
    assert build_trace({"prompt": "p", "completion": "<think></think>2"}).problem == "no reasoning"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("27", "27"),
        ("  27\n", "27"),
        (27, "27"),
        (27.0, "27"),
        (-3.0, "-3"),
        (0.5, "0.5"),
        (0, "0"),
        (["a", "b"], "a, b"),
        ([1.0, 2.5], "1, 2.5"),
        ((3,), "3"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (None, "2"),
    ],
)
def test_answer_column_is_read_as_the_model_would_write_it(value, answer):
    assert build_trace({"prompt": "p", "completion": COMPLETION, "answer": value}).answer == answer


def test_answer_column_can_have_another_name_and_a_callable_wins():
    row = {"prompt": "p", "completion": COMPLETION, "answer": "7", "final": "8"}
    assert build_trace(row, TraceConfig(answer_column="final")).answer == "8"
    assert build_trace(row, TraceConfig(answer_column="missing")).answer == "2"
    assert build_trace(row, answer_func=lambda r: f" {r['final']}{r['answer']} ").answer == "87"
    trace = build_trace(row, answer_func=lambda r: None)
    assert trace.answer is None and trace.problem.startswith("no answer")


def test_segmenter_of_the_config_and_callable():
    row = {"prompt": "p", "completion": "<think>a\n\nb; c</think>\\boxed{2}"}
    assert build_trace(row, TraceConfig("paragraphs")).segment_texts == ["a", "\n\nb; c"]
    assert build_trace(row, TraceConfig("regex", ";")).segment_texts == ["a\n\nb", "; c"]
    assert build_trace(row, TraceConfig("regex", ";"), segmenter=lambda t: [t[:1], t[1:]]).segment_texts == [
        "a",
        "\n\nb; c",
    ]
    with pytest.raises(ValueError, match="do not join"):
        build_trace(row, segmenter=lambda t: [t.strip()[:1]])


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": None}, "no text"),
        ({"prompt": "p", "completion": None}, "no completion"),
        ({"prompt": None, "completion": None}, "no prompt and completion"),
        ({"messages": []}, "no messages"),
        ({"messages": None}, "no messages"),
        ({"conversations": None}, "no conversations"),
        ({"question": None, "solution": "s"}, "no question"),
        ({"problem": "", "solution": "s"}, "no question"),
        ({"question": "q", "solution": None}, "no solution"),
        ({"prompt": "p", "completion": [{"role": "assistant", "content": "s"}]}, "'prompt' is text and"),
    ],
)
def test_an_empty_field_is_a_problem_of_its_row_alone(row, problem):
    assert build_trace({**row, "answer": "5"}).problem.startswith(problem)


@pytest.mark.parametrize("row", [{}, {"question": "q"}, {"prompt": "p"}, {"ask": "a", "reply": "b"}])
def test_unknown_format_names_the_columns(row):
    with pytest.raises(ValueError, match="not in a format that can be read") as error:
        build_trace(row)
    assert str(sorted(row)) in str(error.value)


def test_key_changes_exactly_with_what_attributions_depend_on():
    base = {"prompt": "p", "completion": COMPLETION, "answer": "2"}
    key = build_trace(base).key
    assert len(key) == 32 and int(key, 16) >= 0

    # After the reasoning nothing matters: the model is causal
    same = [
        base,
        {**base, "completion": COMPLETION + " More."},
        {**base, "completion": COMPLETION.replace("It is", "So it must be")},
        {**base, "answer": " 2 "},
        {**base, "answer": 2.0},
        {**base, "id": 5},
    ]
    assert {build_trace(row).key for row in same} == {key}

    different = [
        build_trace({**base, "prompt": "p "}),
        build_trace({**base, "prompt": [{"role": "user", "content": "p"}], "completion": [assistant(COMPLETION)]}),
        build_trace({**base, "completion": COMPLETION.replace("yes", "no")}),
        build_trace({**base, "completion": COMPLETION.removeprefix("<think>")}),
        build_trace({**base, "answer": "3"}),
        build_trace(base, TraceConfig("retro_search"), segmenter=lambda t: [t[:3], t[3:]]),
        build_trace(base, TraceConfig("regex", "plus")),
        build_trace({**base, "chat_template_kwargs": {"enable_thinking": True}}),
        build_trace({**base, "tools": [{"name": "f"}]}),
    ]
    assert len({trace.key for trace in different} | {key}) == len(different) + 1


def test_key_is_the_same_in_another_process():
    """Hash randomisation must not reach it: a store is read by another process than the one that wrote it."""
    row = {"messages": [USER, assistant(COMPLETION)], "tools": [{"name": "f", "strict": True}]}
    program = f"from trl_segment.traces import build_trace; print(build_trace({row!r}).key)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=REPOSITORY,
    )
    assert result.stdout.strip() == build_trace(row).key


def test_template_kwargs_are_read_as_trl_does():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert template_kwargs({}) == {}
    assert template_kwargs({"tools": None, "chat_template_kwargs": None}) == {}
    assert template_kwargs({"tools": tools}) == template_kwargs({"tools": json.dumps(tools)}) == {"tools": tools}
    row = {"tools": tools, "chat_template_kwargs": {"enable_thinking": False}}
    assert template_kwargs(row) == {"tools": tools, "enable_thinking": False}
    assert build_trace({"messages": [USER, assistant(COMPLETION)], **row}).template_kwargs == template_kwargs(row)


def test_config_refuses_what_cannot_work():
    with pytest.raises(ValueError, match=r"has no {question} in it"):
        TraceConfig(question_template="Solve it.")
    with pytest.raises(ValueError, match="Unknown segmenter 'x'"):
        TraceConfig(segmenter="x")
    with pytest.raises(ValueError, match="is not a regular expression"):
        TraceConfig(segmenter="regex", segment_pattern="(")


def test_a_function_that_reads_traces_can_be_hashed():
    """`Dataset.map` hashes a function with all that it calls, and fails on those that call one another in a circle."""
    from datasets.fingerprint import Hasher

    def keys(row):
        return {"key": build_trace(row).key}

    assert Hasher.hash(keys) == Hasher.hash(keys)
