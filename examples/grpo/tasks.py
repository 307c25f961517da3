"""Tasks whose answers a program checks: the tiny world, which ships with this repository, and reasoning-gym's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tiny_world"))

import world  # noqa: E402

from trl_segment.traces import QUESTION_TEMPLATE, answer_of_completion, find_reasoning  # noqa: E402


Reward = Callable[..., list[float]]


def tiny_world(setting: str | world.WorldSettings, n: int, split: str) -> tuple[Dataset, Reward]:
    """
    Problems of the tiny world, with prompts and right answers.

    Args:
        setting (`str` or `world.WorldSettings`):
            The name of one of `world.SETTINGS`, or a setting.
        n (`int`):
            Number of problems.
        split (`str`):
            Name of the split; different splits share no problem.

    Returns:
        `tuple[Dataset, Callable]`: Rows with `prompt` and `answer`, and a reward: 1 for the right answer, else 0.
    """
    rows = [
        {"prompt": [{"role": "user", "content": row["question"] + world.PROMPT_SUFFIX}], "answer": row["answer"]}
        for row in world.make_rows(setting, n, split)
    ]

    def right_answer(completions, answer, **kwargs):
        given = (world.parse_solution(completion[0]["content"])[1] for completion in completions)
        return [float(one == right) for one, right in zip(given, answer, strict=True)]

    return Dataset.from_list(rows), right_answer


def reasoning_gym(name: str, n: int, seed: int) -> tuple[Dataset, Reward]:
    """
    Problems of a dataset of reasoning-gym (`pip install trl-segment[reasoning_gym]`), scored by its own verifier.

    Args:
        name (`str`):
            Name of the dataset there, such as `"chain_sum"`.
        n (`int`):
            Number of problems.
        seed (`int`):
            Seed of the problems.

    Returns:
        `tuple[Dataset, Callable]`: Rows with `prompt` and `number`, and a reward in [0, 1].
    """
    import reasoning_gym

    problems = reasoning_gym.create_dataset(name, size=n, seed=seed)
    rows = [
        {
            "prompt": [{"role": "user", "content": QUESTION_TEMPLATE.replace("{question}", problem["question"])}],
            "number": number,
        }
        for number, problem in enumerate(problems)
    ]

    def verified(completions, number, **kwargs):
        texts = [completion[0]["content"] for completion in completions]
        given = [answer_of_completion(text, find_reasoning(text)) for text in texts]
        return [problems.score_answer(one, entry=problems[i]) for one, i in zip(given, number, strict=True)]

    return Dataset.from_list(rows), verified
