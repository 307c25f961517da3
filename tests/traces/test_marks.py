"""Where reasoning lies: marks of many models, marks of the user's, and no marks."""

import pytest
from helpers import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.traces import KNOWN_MARKS, TraceConfig, attributed_sequence, build_trace, find_reasoning


REASONING = "Add 2 and 3.\n\nWait, check it.\n\nAlternatively, count."
PIECES = ["Add 2 and 3.", "\n\nWait, check it.", "\n\nAlternatively, count."]
RESPONSE = "The sum is \\boxed{5}."
OPTIONS = {"reasoning_start": "<<plan>>", "reasoning_end": "<</plan>>"}
# As their models write them, beside the table that is tested
WRITTEN = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>\n\n", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    ("<thought>", "</thought>"),
    ("<Thought>\n", "</Thought>\n"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("<|channel>thought\n", "<channel|>"),
    ("◁think▷", "◁/think▷"),
    ("Here is my thought process:\n", "Here is my response:\n"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
]
IDS = [opening.strip() for opening, _ in WRITTEN]
HEADERS = [
    "<|im_start|>user\nAnother?<|im_end|>\n<|im_start|>assistant\n",
    "User: Ann has 2.\n\nHowever, Bob has 3.\n\nAssistant: ",
    "### Instruction:\nSolve.\n\nHowever, fast.\n\n### Response:\n",
    "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "[INST] Q\n\nHowever, Q [/INST]",
    "<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
    "<｜User｜>Q<｜Assistant｜>",
    "Question: 2 + 3?\n\nHowever, show it.\nAnswer: ",
    "## Instruction:\nSolve.\n\n## Response\n",
    # The instruction of R1-Zero speaks of the marks
    "Use <think> reasoning </think> and <answer> answer </answer>. User: 2 + 3?\n\nHowever, fast. Assistant: ",
    "User: 1 + 1?\nAssistant: It is 2.\nUser: 2 + 3?\nAssistant: ",
]


def reasoning_of(trace):
    return trace.completion[trace.reasoning[0] : trace.reasoning[1]]


@pytest.mark.parametrize(("opening", "closing"), WRITTEN, ids=IDS)
def test_known_forms_are_found_in_every_format(opening, closing):
    completion = f"{opening}{REASONING}{closing}{RESPONSE}"
    user = {"role": "user", "content": "2 + 3?"}
    rows = [
        {"prompt": "2 + 3?", "completion": completion},
        {"messages": [user, {"role": "assistant", "content": completion}]},
        {"text": f"2 + 3? {completion}"} if opening[0] in "<[◁" else {"text": f"{HEADERS[0]}{completion}"},
        {"text": f"{HEADERS[0]}{completion}<|im_end|>\n"},
        {"question": "2 + 3?", "solution": completion},
    ]
    for row in rows:
        trace = build_trace(row)
        assert (trace.problem, trace.note, trace.answer) == (None, None, "5"), row
        assert [text.strip() for text in trace.segment_texts] == [text.strip() for text in PIECES], row


@pytest.mark.parametrize(("opening", "closing"), WRITTEN, ids=IDS)
def test_the_answer_is_asked_for_in_the_form_of_the_trace(opening, closing):
    tokenizer = tiny_tokenizer()
    trace = build_trace({"prompt": "2 + 3?", "completion": f"{opening}{REASONING}{closing}{RESPONSE}"})
    text = tokenizer.decode(attributed_sequence(trace, tokenizer).input_ids)
    assert text.startswith(f"2 + 3?{opening}{REASONING}{trace.closing} So, the final answer is")
    assert closing.startswith(trace.closing)


@pytest.mark.parametrize("marks", [marks for marks in KNOWN_MARKS if not marks.pair], ids=lambda marks: marks.end)
@pytest.mark.parametrize("header", HEADERS)
def test_text_with_the_closing_mark_only_keeps_the_question_out(marks, header):
    trace = build_trace({"text": f"{header}{REASONING}{marks.end}\n\n{RESPONSE}"})
    assert (trace.prompt, trace.problem, trace.note) == (header, None, None)
    assert trace.segment_texts == PIECES


@pytest.mark.parametrize("header", HEADERS)
def test_text_without_marks_keeps_question_and_answer_out(header):
    trace = build_trace({"text": f"{header}{REASONING}\n\n{RESPONSE}"})
    assert (trace.prompt, trace.problem) == (header, None)
    assert trace.segment_texts == PIECES
    assert "no marks of reasoning" in trace.note


@pytest.mark.parametrize("header", HEADERS)
def test_text_with_both_marks_keeps_the_question_out(header):
    trace = build_trace({"text": f"{header}<think>\n{REASONING}\nAssistant: no.</think>\n\n{RESPONSE}"})
    assert (trace.prompt, trace.problem, trace.note) == (header, None, None)
    assert trace.segment_texts[1:] == [*PIECES[1:-1], PIECES[-1] + "\nAssistant: no."]


@pytest.mark.parametrize("heading", ["", "**Final Answer**\n\n", "### Answer\n\n"])
def test_without_marks_the_last_paragraph_is_the_response(heading):
    trace = build_trace({"prompt": "p", "completion": f"{REASONING}\n\n{heading}{RESPONSE}"})
    assert trace.segment_texts == PIECES
    assert trace.note == (
        "no marks of reasoning such as <think>, so everything in front of the paragraph that states the "
        "answer was taken for it"
    )


def test_without_marks_and_statement_everything_is_taken_and_said():
    trace = build_trace({"prompt": "p", "completion": REASONING, "answer": "5"})
    assert trace.segment_texts == PIECES
    assert "the whole completion, the response included, was taken for it" in trace.note


@pytest.mark.parametrize(
    ("config", "opening", "closing"),
    [
        (OPTIONS, "<<plan>>", "<</plan>>"),
        ({"reasoning_end": "ANSWER:"}, "", "ANSWER:"),
        ({"reasoning_start": "Plan:"}, "Plan:", "</think>"),
        ({"reasoning_start": ""}, "", "</think>"),
        ({"reasoning_start": "", "reasoning_end": "So:"}, "", "So:"),
        (OPTIONS, "<think>", "</think>"),
    ],
)
def test_marks_of_the_user_are_found(config, opening, closing):
    completion = f"{opening}{REASONING}{closing}{RESPONSE}"
    trace = build_trace({"prompt": "p", "completion": completion}, TraceConfig(**config))
    assert trace.segment_texts == PIECES and trace.note is None and trace.answer == "5"
    assert trace.closing == closing


def test_marks_of_the_user_in_text():
    text = f"2 + 3?\n\nHowever, fast. <<plan>>{REASONING}<</plan>>{RESPONSE}"
    trace = build_trace({"text": text}, TraceConfig(**OPTIONS))
    assert trace.prompt == "2 + 3?\n\nHowever, fast. " and trace.segment_texts == PIECES


def test_of_several_turns_in_a_text_the_last_is_read():
    turn = f"<think>{REASONING}</think>{RESPONSE}"
    trace = build_trace({"text": f"Q {turn} And again? {turn}"})
    assert trace.prompt == f"Q {turn} And again? "
    assert trace.segment_texts == PIECES


def test_a_reasoning_may_speak_of_its_own_mark():
    reasoning = "The tag <think> opens it.\n\nWait, check it."
    trace = build_trace({"text": f"Q <think>{reasoning}</think>{RESPONSE}"})
    assert trace.prompt == "Q " and reasoning_of(trace) == reasoning


def test_words_that_are_marks_by_chance_are_none():
    for completion in ("analysis of the sum", "A first </ look <|end|> here", "Here is my thought process: add."):
        assert find_reasoning(completion).closing is None


def test_text_in_front_of_the_opening_mark_is_no_reasoning():
    trace = build_trace({"prompt": "p", "completion": f"Sure! <think>{REASONING}</think>{RESPONSE}"})
    assert trace.segment_texts == PIECES


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": REASONING}, {"type": "text", "text": RESPONSE}],
        [
            {"type": "thinking", "thinking": REASONING, "text": None},
            {"type": "text", "text": RESPONSE, "thinking": None},
        ],
        [{"type": "thinking", "thinking": [{"type": "text", "text": REASONING}]}, {"type": "text", "text": RESPONSE}],
        [{"type": "reasoning", "text": REASONING}, {"type": "text", "text": RESPONSE}],
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": REASONING}]}, RESPONSE],
    ],
)
def test_thinking_parts_are_the_reasoning(content):
    user = {"role": "user", "content": [{"type": "text", "text": "2 + 3?", "thinking": None}]}
    trace = build_trace({"messages": [user, {"role": "assistant", "content": content}]})
    assert (trace.segment_texts, trace.answer, trace.problem, trace.note) == (PIECES, "5", None, None)
    assert trace.prompt == [{"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]}]


@pytest.mark.parametrize(
    "columns",
    [
        {"thinking_trajectories": [REASONING], "attempt": RESPONSE},
        {"deepseek_thinking_trajectory": REASONING, "deepseek_attempt": RESPONSE},
    ],
)
def test_columns_of_s1k_are_read_in_place_of_its_reference(columns):
    trace = build_trace({"question": "2 + 3?", "solution": "The reference.\n\nWait, no.", **columns})
    assert (trace.segment_texts, trace.answer, trace.note) == (PIECES, "5", None)
    assert trace.completion.endswith(RESPONSE)


def test_an_empty_end_is_refused():
    with pytest.raises(ValueError, match="`reasoning_end` is empty"):
        TraceConfig(reasoning_end="")


@given(st.text(alphabet="ab\n .", max_size=30), st.text(alphabet="cd\n", max_size=10), st.sampled_from(KNOWN_MARKS))
def test_what_stands_between_marks_comes_back(reasoning, response, marks):
    found = find_reasoning(f"{marks.start}{reasoning}{marks.end}{response}")
    completion = f"{marks.start}{reasoning}{marks.end}{response}"
    assert completion[found.start : found.end] == reasoning
    assert completion[found.response :] == response


@pytest.mark.parametrize("closing", ["</thinking>", "</Think>", "</thought>"])
def test_another_closing_mark_keeps_the_answer_out_of_the_reasoning(closing):
    trace = build_trace({"prompt": "2 + 3?", "completion": f"<think>Add.\n\nWait, check.{closing}It is \\boxed{{5}}."})
    assert trace.segment_texts == ["Add.", "\n\nWait, check."] and trace.answer == "5"


def test_a_quoted_mark_closes_nothing():
    text = "<think>\nThe tag `</think>` ends it.\n\nWait, check it.\n</think>\n\nIt is \\boxed{5}."
    trace = build_trace({"prompt": "2 + 3?", "completion": text})
    assert "Wait, check it." in trace.segment_texts[-1] and "boxed" not in trace.segment_texts[-1]


def test_a_text_that_ends_with_the_user_is_named():
    chat = (
        "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n<think>Add.\n\nWait.</think>\\boxed{5}<|im_end|>\n"
    )
    assert build_trace({"text": chat}).answer == "5"
    again = build_trace({"text": chat + "<|im_start|>user\nI got \\boxed{7}.<|im_end|>\n"})
    assert again.problem == "the last turn is not the assistant's"
