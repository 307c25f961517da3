"""One row of each form that datasets of reasoning come in, and what a person reads in it."""

import time

import pytest

from trl_segment.traces import TraceConfig, build_trace, read_text


SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
THOUGHT = "Two and three.\n\nWait, check it.\n\nSo five."
SEGMENTS = ["Two and three.", "\n\nWait, check it.\n\nSo five."]


def user(content):
    return [{"role": "user", "content": content}]


def turns(reply, roles=("user", "assistant"), keys=("role", "content")):
    return [dict(zip(keys, turn, strict=True)) for turn in zip(roles, ("2 + 3?", reply), strict=True)]


# Name, row, prompt, reasoning, response, answer; columns are those of the dataset cards
FORMS = {
    "OpenThoughts-114k": (
        {
            "system": "Think first.",
            "conversations": turns(
                f"<|begin_of_thought|>\n\n{THOUGHT}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nIt is "
                "\\boxed{5}.\n\n<|end_of_solution|>",
                keys=("from", "value"),
            ),
        },
        user("2 + 3?"),
        f"\n\n{THOUGHT}\n\n",
        "\n\n<|begin_of_solution|>\n\nIt is \\boxed{5}.\n\n<|end_of_solution|>",
        "5",
    ),
    "OpenThoughts-114k, metadata": (
        {
            "problem": "2 + 3?",
            "deepseek_reasoning": THOUGHT,
            "deepseek_solution": "It is \\boxed{5}.",
            "ground_truth_solution": "Five.",
            "domain": "math",
            "source": "made",
            "test_cases": None,
            "starter_code": None,
        },
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "OpenR1-Math-220k": (
        {
            "problem": "2 + 3?",
            "solution": "$2 + 3 = 5$",
            "answer": "5",
            "uuid": "1",
            "is_reasoning_complete": [True, True],
            "generations": [f"<think>\n{THOUGHT}\n</think>\n\n5", "<think>\nNo.\n</think>\n\n6"],
            "correctness_math_verify": [True, False],
            "messages": turns(f"<think>\n{THOUGHT}\n</think>\n\nIt is \\boxed{{5}}."),
        },
        user("2 + 3?"),
        f"\n{THOUGHT}\n",
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "OpenR1-Math-Raw: the first generation that is verified and complete": (
        {
            "problem": "2 + 3?",
            "solution": "$2 + 3 = 5$",
            "answer": "5",
            "generations": [
                "<think>\nSix.\n</think>\n\n\\boxed{6}",
                "<think>\nFive, but then",
                f"<think>\n{THOUGHT}\n</think>\n\nIt is \\boxed{{5}}.",
            ],
            "correctness_math_verify": [False, True, True],
            "is_reasoning_complete": [True, False, True],
        },
        user(f"2 + 3?{SUFFIX}"),
        f"\n{THOUGHT}\n",
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "s1K": (
        {
            "solution": "5",
            "question": "2 + 3?",
            "cot_type": "math",
            "source_type": "made",
            "metadata": "{}",
            "cot": None,
            "thinking_trajectories": [THOUGHT],
            "attempt": "It is \\boxed{5}.",
        },
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "s1K-1.1": (
        {
            "solution": "5",
            "question": "2 + 3?",
            "cot_type": "math",
            "source_type": "made",
            "metadata": "{}",
            "gemini_thinking_trajectory": "Gemini thinks.",
            "gemini_attempt": "It is \\boxed{5}!",
            "deepseek_thinking_trajectory": THOUGHT,
            "deepseek_attempt": "It is \\boxed{5}.",
            "gemini_grade": "Yes",
            "deepseek_grade": "Yes",
        },
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "s1K_tokenized": (
        {
            "question": "2 + 3?",
            "solution": "5",
            "thinking_trajectories": ["Another."],
            "attempt": "Another.",
            "text": "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n"
            f"<|im_start|>think\n{THOUGHT}\n<|im_start|>answer\nAnswer: It is \\boxed{{5}}.<|im_end|>",
        },
        "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n",
        f"\n{THOUGHT}\n",
        "\nAnswer: It is \\boxed{5}.<|im_end|>",
        "5",
    ),
    "LIMO": (
        {"question": "2 + 3?", "solution": f"{THOUGHT}\n\n**Final Answer**\n\n\\boxed{{5}}", "answer": "5"},
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\n**Final Answer**\n\n\\boxed{5}",
        "5",
    ),
    "OpenMathReasoning": (
        {
            "expected_answer": "5",
            "problem_type": "has_answer_extracted",
            "problem_source": "made",
            "generation_model": "DeepSeek-R1",
            "pass_rate_72b_tir": "0.5",
            "problem": "2 + 3?",
            "generated_solution": f"<think>\n{THOUGHT}\n</think>\n\nSo it is five.",
            "inference_mode": "cot",
            "used_in_kaggle": True,
        },
        user(f"2 + 3?{SUFFIX}"),
        f"\n{THOUGHT}\n",
        "\n\nSo it is five.",
        "5",
    ),
    "Llama-Nemotron-Post-Training": (
        {
            "input": user("Solve it.\n\n2 + 3?"),
            "output": f"<think>\n{THOUGHT}\n</think>\n\nIt is \\boxed{{5}}.",
            "category": "math",
            "license": "cc-by-4.0",
            "reasoning": "on",
            "generator": "DeepSeek-R1",
            "used_in_training": "Ultra",
            "version": "v1.1",
            "system_prompt": "detailed thinking on",
        },
        [{"role": "system", "content": "detailed thinking on"}, *user("Solve it.\n\n2 + 3?")],
        f"\n{THOUGHT}\n",
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "Nemotron with a text as its input": (
        {"input": "2 + 3?", "output": f"<think>{THOUGHT}</think>It is \\boxed{{5}}.", "reasoning": "on"},
        user("2 + 3?"),
        THOUGHT,
        "It is \\boxed{5}.",
        "5",
    ),
    "Alpaca": (
        {
            "instruction": "Add.",
            "input": "2 + 3",
            "output": f"<think>{THOUGHT}</think>It is \\boxed{{5}}.",
            "system": "You add.",
            "history": [["1 + 1?", "2"]],
        },
        [
            {"role": "system", "content": "You add."},
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "Add.\n2 + 3"},
        ],
        THOUGHT,
        "It is \\boxed{5}.",
        "5",
    ),
    "Alpaca without an input": (
        {"instruction": "2 + 3?", "input": "", "output": f"<think>{THOUGHT}</think>It is \\boxed{{5}}."},
        user("2 + 3?"),
        THOUGHT,
        "It is \\boxed{5}.",
        "5",
    ),
    "reasoning and generation": (
        {"prompt": "2 + 3?", "reasoning": THOUGHT, "generation": "It is \\boxed{5}."},
        user("2 + 3?"),
        THOUGHT,
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "reasoning, and a generation that holds it too": (
        {"prompt": "2 + 3?", "reasoning": "A copy.", "generation": f"<think>{THOUGHT}</think>It is \\boxed{{5}}."},
        user("2 + 3?"),
        THOUGHT,
        "It is \\boxed{5}.",
        "5",
    ),
    "reasoning and answer": (
        {"question": "2 + 3?", "rationale": THOUGHT, "answer": "5"},
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\n5",
        "5",
    ),
    "reasoning-v1-20m": (
        {"prompt": "2 + 3?", "response": f"<think>{THOUGHT}</think>It is \\boxed{{5}}."},
        user("2 + 3?"),
        THOUGHT,
        "It is \\boxed{5}.",
        "5",
    ),
    "DeepMath-103K": (
        {
            "question": "2 + 3?",
            "final_answer": "5",
            "difficulty": 1.0,
            "r1_solution_1": f"{THOUGHT}</think>\n\nIt is five.",
            "r1_solution_2": "No.</think>",
        },
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\nIt is five.",
        "5",
    ),
    "medical-o1": (
        {"Question": "2 + 3?", "Complex_CoT": THOUGHT, "Response": "It is \\boxed{5}."},
        user(f"2 + 3?{SUFFIX}"),
        THOUGHT,
        "\n\nIt is \\boxed{5}.",
        "5",
    ),
    "Magistral": (
        {"messages": turns(f"[THINK]{THOUGHT}[/THINK]It is \\boxed{{5}}.")},
        user("2 + 3?"),
        THOUGHT,
        "It is \\boxed{5}.",
        "5",
    ),
    "gpt-oss": (
        {
            "messages": turns(
                f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>It is "
                "\\boxed{5}.<|return|>"
            )
        },
        user("2 + 3?"),
        THOUGHT,
        "It is \\boxed{5}.<|return|>",
        "5",
    ),
    "messages with reasoning_content": (
        {"messages": [*user("2 + 3?"), {"role": "assistant", "content": "\\boxed{5}", "reasoning_content": THOUGHT}]},
        user("2 + 3?"),
        THOUGHT,
        "\n\n\\boxed{5}",
        "5",
    ),
    "messages with thinking": (
        {"messages": [*user("2 + 3?"), {"role": "assistant", "content": "\\boxed{5}", "thinking": THOUGHT}]},
        user("2 + 3?"),
        THOUGHT,
        "\n\n\\boxed{5}",
        "5",
    ),
}


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
