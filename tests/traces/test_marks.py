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
    ("<scratchpad>", "</scratchpad>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("[unused16]", "[unused17]"),
    ("Here's my thought process:\n", "Here's my response:\n"),
    ("Here is my thought process:\n", "Here's my response:\n"),
    ("Here's my thought process:\n", "Here is my response:\n"),
    ("## Thinking\n\n", "\n\n## Final Response\n\n"),
    ("<think time=5>", "</think>"),
    ('<think duration="5 s" effort=high>\n', "\n</think>\n\n"),
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
    # Phi-4 reasoning, whose instruction speaks of the marks
    "<|im_start|>system<|im_sep|>Structure: <think> {Thought section} </think> {Solution section}.<|im_end|>"
    "<|im_start|>user<|im_sep|>2 + 3?<|im_end|><|im_start|>assistant<|im_sep|>",
    "User: Put your thoughts in <think>...</think> tags. 2 + 3?\n\nHowever, fast.\nAssistant: ",
    "Reason between `<think>` and `</think>`.\n\nQuestion: 2 + 3?\n\nAssistant: ",
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
    reasoning = f"{opening}{REASONING}{closing.partition(trace.closing)[0]}"
    assert text.startswith(f"2 + 3?{reasoning}{trace.closing} So, the final answer is")
    assert closing.strip().startswith(trace.closing)


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
    assert (trace.segment_texts, trace.answer) == (PIECES, "5")
    thinking, attempt = columns
    assert trace.note == f"'question', {thinking!r} and {attempt!r} were read, and 'solution' not"
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


NO_PLACE = "plain text that does not say where the response begins"
SPOKEN_OF = "it is not sure that the opening mark of the reasoning is more than spoken of"
SEVERAL = "there are several parts of reasoning with other text between them"
TIMES = "the closing mark of the reasoning stands in it several times"
NOT_THE_ASSISTANTS = "the last turn is not the assistant's"
MARKED = f"<think>{REASONING}</think>{RESPONSE}"
DIALOGUE = ["He said\nUser: hi\nAssistant: hello", "\n\nWait, so."]
ANALYSIS = "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
GPT_OSS = "<|start|>user<|message|>Q<|end|><|start|>assistant"
BOTH = ["One.", "\n\nWait, two."]
# A plain text, its prompt, and its segments or the problem
TEXTS = {
    f"Put your thoughts in <think>...</think> tags.\n\n2 + 3?\n\n{REASONING}\n\n{RESPONSE}": ("", NO_PLACE),
    f"Reason between <think> and </think>. 2 + 3?\n\n{REASONING}\n\n{RESPONSE}": ("", NO_PLACE),
    f"Write <think> your reasoning here </think>. 2 + 3?\n\n{REASONING}</think>{RESPONSE}": ("", NO_PLACE),
    f"Reason between <think> and </think>. 2 + 3? {MARKED}": ("Reason between <think> and </think>. 2 + 3? ", PIECES),
    f"User: 2 + 3?\nAssistant: <think>{''.join(DIALOGUE)}</think>{RESPONSE}": (
        "User: 2 + 3?\nAssistant: ",
        DIALOGUE,
    ),
    f"### Instruction:\n2 + 3?\n\n### Response:\n{''.join(DIALOGUE)}</think>{RESPONSE}": (
        "### Instruction:\n2 + 3?\n\n### Response:\n",
        DIALOGUE,
    ),
    f"Q <think>{''.join(DIALOGUE)}</think>{RESPONSE}": ("", NO_PLACE),
    f"2 + 3?\n<think>{''.join(DIALOGUE)}</think>{RESPONSE}": ("2 + 3?\n", DIALOGUE),
    f"<|new_user|>Q<|new_bot|>{REASONING}</think>{RESPONSE}": ("", NO_PLACE),
    f"<|new_user|>Q<|new_bot|>{MARKED}<|new_end|>": ("<|new_user|>Q<|new_bot|>", PIECES),
    f"<|new_user|>Q<|new_bot|>{MARKED}<|new_user|>And?<|new_bot|>It is 7.": (
        "<|new_user|>Q<|new_bot|>",
        NOT_THE_ASSISTANTS,
    ),
    f"<|new_user|>Q<|new_bot|>{MARKED}<|new_user|>And?<|new_bot|>{MARKED}": (
        f"<|new_user|>Q<|new_bot|>{MARKED}<|new_user|>And?<|new_bot|>",
        PIECES,
    ),
    f"User: 2 + 3?\nAssistant: {MARKED}\nUser: thanks": ("User: 2 + 3?\nAssistant: ", NOT_THE_ASSISTANTS),
    f"User: 1 + 1?\nAssistant: It is 2.\nUser: 2 + 3?\n{MARKED}": (
        "User: 1 + 1?\nAssistant: It is 2.\nUser: 2 + 3?\n",
        PIECES,
    ),
    "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>It writes <|im_start|>assistant.\n\nWait, so."
    f"</think>{RESPONSE}<|im_end|>": (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
        ["It writes <|im_start|>assistant.", "\n\nWait, so."],
    ),
    f"{GPT_OSS}{ANALYSIS}One.{NEXT}{ANALYSIS}Two.{FINAL}{RESPONSE}<|return|>": (
        GPT_OSS,
        ["One.", f"{NEXT}{ANALYSIS}Two."],
    ),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_split_where_it_is_sure(text):
    prompt, expected = TEXTS[text]
    trace = build_trace({"text": text})
    assert trace.prompt == prompt
    assert (trace.problem, trace.segment_texts) == ((expected, []) if isinstance(expected, str) else (None, expected))


# A completion, and its segments or the problem
COMPLETIONS = {
    # Marks that are only spoken of
    f"The tags <think> and </think> are used.\n\nWait, see.\n\n{RESPONSE}": [
        "The tags <think> and </think> are used.",
        "\n\nWait, see.",
    ],
    "<think>The </think> tag ends it.\n\nWait, ok.</think>It is \\boxed{5}.": [
        "The </think> tag ends it.",
        "\n\nWait, ok.",
    ],
    "<think>One writes “</think>” then.\n\nWait, ok.</think>It is \\boxed{5}.": [
        "One writes “</think>” then.",
        "\n\nWait, ok.",
    ],
    "<think>It ends (</think>) then.\n\nWait, ok.</think>It is \\boxed{5}.": [
        "It ends (</think>) then.",
        "\n\nWait, ok.",
    ],
    "The tag <think> opens it.\n\nWait, ok.</think>It is \\boxed{5}.": [
        "The tag <think> opens it.",
        "\n\nWait, ok.",
    ],
    f"<think>{REASONING}</think>Write `<think>so</think>`: {RESPONSE}": PIECES,
    # The one that has a line for itself, among several
    "<think>It is </think> here.\n\nWait, ok.\n</think>\n\nIt is \\boxed{5}.": [
        "It is </think> here.",
        "\n\nWait, ok.\n",
    ],
    "<think>It is </think> here.\n\nWait, ok.</think>It is \\boxed{5}.": TIMES,
    f"<think>{REASONING}\n</think>\n\n{RESPONSE}\n</think>\n\n{RESPONSE}": TIMES,
    "<think>It ends at `</think>`, so \\boxed{5}": "the closing mark of the reasoning is only spoken of",
    f"Hm so <think>{REASONING}</think>{RESPONSE}": SPOKEN_OF,
    # Several messages
    f"<think>One.</think>\n\n<think>Two.</think>{RESPONSE}": ["One.", "</think>\n\n<think>Two."],
    f"<think></think><think> </think>{RESPONSE}": "no reasoning",
    f"<think></think><think>One.</think>{RESPONSE}": ["</think><think>One."],
    f"<think>One.</think>I look.<think>Two.</think>{RESPONSE}": SEVERAL,
    f"{ANALYSIS}One.\n\nWait, two.{NEXT}{ANALYSIS}Three.{FINAL}{RESPONSE}": [*BOTH, f"{NEXT}{ANALYSIS}Three."],
    f"{ANALYSIS}One.{NEXT}<|channel|>commentary<|message|>I look.{NEXT}{ANALYSIS}Two.{FINAL}{RESPONSE}": SEVERAL,
    f"analysisOne.\n\nWait, two.assistantanalysisThree.assistantfinal{RESPONSE}": [*BOTH, "assistantanalysisThree."],
    f"analysisOne.assistantcommentaryI look.assistantanalysisTwo.assistantfinal{RESPONSE}": SEVERAL,
}


@pytest.mark.parametrize("completion", COMPLETIONS)
def test_marks_that_are_only_spoken_of_are_none(completion):
    trace = build_trace({"prompt": "2 + 3?", "completion": completion})
    expected = COMPLETIONS[completion]
    assert (trace.problem, trace.segment_texts) == ((expected, []) if isinstance(expected, str) else (None, expected))
    assert trace.answer == "5"


@pytest.mark.parametrize(
    "content",
    ["<think>\n{}\n</think>", "{}</think>", "<think>{}", "<thinking>{}</thinking>", "<think time=5>{}</think>", "{}"],
)
def test_marks_in_a_field_of_the_reasoning_are_no_part_of_it(content):
    message = {"role": "assistant", "content": RESPONSE, "reasoning_content": content.format(REASONING)}
    trace = build_trace({"messages": [{"role": "user", "content": "2 + 3?"}, message]})
    assert [text.strip() for text in trace.segment_texts] == [text.strip() for text in PIECES]
    assert (trace.problem, trace.note, trace.completion.count("think")) == (None, None, 2)
