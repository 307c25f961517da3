"""One row of each form that datasets of reasoning come in, by hand, with what a person reads in it."""

import json


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

# Datasets of the Hub by the form of their rows, with configuration and split
ON_THE_HUB = {
    "open-thoughts/OpenThoughts-114k": [
        ("default", "train", "OpenThoughts-114k"),
        ("metadata", "train", "OpenThoughts-114k, metadata"),
    ],
    "open-r1/OpenR1-Math-220k": [("default", "train", "OpenR1-Math-220k")],
    "simplescaling/s1K": [("default", "train", "s1K")],
    "simplescaling/s1K-1.1": [("default", "train", "s1K-1.1")],
    "simplescaling/s1K_tokenized": [("default", "train", "s1K_tokenized")],
    "nvidia/OpenMathReasoning": [("default", "cot", "OpenMathReasoning")],
    "nvidia/Llama-Nemotron-Post-Training-Dataset": [("SFT", "math", "Llama-Nemotron-Post-Training")],
    "zwhe99/DeepMath-103K": [("default", "train", "DeepMath-103K")],
    "FreedomIntelligence/medical-o1-reasoning-SFT": [("en", "train", "medical-o1")],
    "glaiveai/reasoning-v1-20m": [("default", "train", "reasoning-v1-20m")],
    "HuggingFaceH4/Multilingual-Thinking": [("default", "train", "messages with thinking")],
}


def write_dataset(folder, parts):
    """A folder that loads as the dataset of the Hub does."""
    folder.mkdir(parents=True)
    card = ["---", "configs:"]
    for config, split, form in parts:
        file = f"{config}-{split}.jsonl"
        row = json.dumps(FORMS[form][0])
        (folder / file).write_text(f"{row}\n{row}\n", encoding="utf-8")
        card += [f"- config_name: {config}", "  data_files:", f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
