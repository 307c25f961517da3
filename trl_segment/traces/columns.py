"""Which columns hold question, reasoning, response and answer in rows that are in none of TRL's formats."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .marks import find_reasoning


if TYPE_CHECKING:
    from .trace import TraceConfig


# Options of `TraceConfig` that name a column
COLUMN_OPTIONS = ("question_column", "solution_column", "reasoning_column", "response_column")

# A question that the template goes around, and a prompt that is complete as it is
_QUESTIONS = ("question", "problem", "query", "Question", "Problem")
_PROMPTS = ("instruction", "input", "prompt")
# Reasoning and response that belong to each other by their names
_PAIRS = (
    ("deepseek_thinking_trajectory", "deepseek_attempt"),  # s1K-1.1
    ("thinking_trajectories", "attempt"),  # s1K
    ("gemini_thinking_trajectory", "gemini_attempt"),
    ("deepseek_reasoning", "deepseek_solution"),  # OpenThoughts, its metadata
    ("model_reasoning", "model_answer"),  # GeneralThought
    ("Complex_CoT", "Response"),  # medical-o1
)
_REASONINGS = (
    "reasoning",
    "reasoning_content",
    "thinking",
    "reasoning_trace",
    "chain_of_thought",
    "thoughts",
    "thought",
    "rationale",
    "cot",
)
_RESPONSES = ("response", "generation", "output", "content", "final", "deepseek_solution", "solution", "answer")
# Reasoning and response in one text. What a model has written stands in front of what may be a reference.
_SOLUTIONS = ("generated_solution", "generations", "generation", "r1_solution_1", "solution", "response", "output")
_ANSWERS = ("expected_answer", "final_answer", "reference_answer", "ground_truth")
# Nemotron's `reasoning` says whether the model has reasoned
_SWITCHES = ("on", "off")


@dataclass(frozen=True)
class FoundColumns:
    """
    What the columns of a row hold.

    Args:
        question (`str` or `list`):
            The question, or messages; empty where there is none.
        templated (`bool`):
            Whether the question template goes around it.
        before (`list[dict]`):
            Messages in front of the question.
        reasoning (`str` or `None`):
            The reasoning; `None` where the response has to be searched for it.
        response (`str`):
            The response.
        label (`str`):
            What was taken, for people.
        others (`tuple[str, ...]`):
            Columns that hold another solution.
        problem (`str` or `None`):
            What the row lacks.
    """

    question: str | list
    templated: bool
    before: list[dict[str, str]]
    reasoning: str | None
    response: str
    label: str
    others: tuple[str, ...]
    problem: str | None


def find_columns(row: Mapping[str, Any], config: "TraceConfig") -> FoundColumns | None:
    """
    Find question, reasoning and response among a row's columns: those that the options name, else known ones.

    Where several columns hold a solution, a column of reasoning wins over one that holds both, and one with marks of
    reasoning over one without: what remains may be a reference that nobody has reasoned to.

    Args:
        row (`Mapping`):
            A row.
        config ([`~trl_segment.TraceConfig`]):
            Names columns.

    Returns:
        [`FoundColumns`] or `None`: What was found; `None` if these are no columns that are known.

    Raises:
        `ValueError`: If the row has no column of a name that an option gives, or there is no text in it.
    """
    named = {option: name for option in COLUMN_OPTIONS if (name := getattr(config, option)) is not None}
    for option, name in named.items():
        if name not in row:
            raise ValueError(
                f"`{option}` is {name!r}, and the row has no such column, only {', '.join(map(repr, sorted(row)))}. "
                "Pass the name of one of them."
            )
        if option != "question_column":
            _check_text(row, name, option)
    question = named.get("question_column") or _first(row, (*_QUESTIONS, *_PROMPTS))
    if question is None:
        return None
    taken = _named_solution(row, named) or _known_solution(row, config)
    if taken is None:
        return None
    reasoning, response = taken
    templated = question in _QUESTIONS or "question_column" in named
    asked, label = _question(row, question, templated)
    texts = [_text(row, name)[0] for name in (reasoning, response) if name is not None]
    missing = [name for name in (question, reasoning, response) if name is not None and not row[name]]
    wanted = [name for name in missing if name != response or reasoning is None]
    ways = [f"{name!r}{_text(row, name)[1]}" for name in (reasoning, response) if name is not None]
    holding = (*(pair[0] for pair in _PAIRS), *_SOLUTIONS)
    others = tuple(name for name in holding if name not in taken and name != question and _text(row, name)[0])
    return FoundColumns(
        question=asked,
        templated=templated and isinstance(asked, str),
        before=[] if templated else _messages_before(row),
        reasoning=None if reasoning is None else texts[0],
        response=texts[-1] if response is not None else "",
        label=f"{label} and {' and '.join(ways)}",
        others=() if {*named} & {*COLUMN_OPTIONS[1:]} else others,
        problem=f"no {'question' if wanted[0] == question else wanted[0]}" if wanted else None,
    )


def find_answer(row: Mapping[str, Any], name: str) -> str | None:
    """
    The column with the right answer of a row that is in no TRL format.

    Args:
        row (`Mapping`):
            A row.
        name (`str`):
            `answer_column`.

    Returns:
        `str` or `None`: That column, or a known one where it has its default; `None` if the row has none of them.
    """
    return _first(row, (name, *_ANSWERS) if name == "answer" else (name,))


def _first(row, names):
    """The first column that is filled, else the first that there is."""
    there = [name for name in names if name in row]
    return next((name for name in there if row[name]), there[0] if there else None)


def _named_solution(row, named):
    """Reasoning and response as the options name them."""
    if "solution_column" in named:
        return None, named["solution_column"]
    reasoning, response = named.get("reasoning_column"), named.get("response_column")
    if reasoning is None and response is None:
        return None
    pairs = dict(_PAIRS)
    if reasoning is None:
        by_response = {response: reasoning for reasoning, response in _PAIRS}
        reasoning = next((name for name in (by_response.get(response), *_REASONINGS) if _reasons(row, name)), None)
    elif response is None:
        known = (pairs.get(reasoning), *_RESPONSES)
        response = next((name for name in known if name != reasoning and _text(row, name)[0]), None)
    return reasoning, response


def _known_solution(row, config):
    for reasoning, response in _PAIRS:
        if row.get(reasoning) and row.get(response) is not None:
            return reasoning, response
    reasoning = next((name for name in _REASONINGS if _reasons(row, name)), None)
    solutions = [name for name in _SOLUTIONS if _text(row, name)[0]]
    for name in solutions:
        # One that holds the reasoning itself, whether or not it stands in a column of its own too
        if find_reasoning(_text(row, name)[0], config.marks).closing is not None:
            return None, name
    if reasoning is not None:
        response = next((name for name in _RESPONSES if name != reasoning and _text(row, name)[0]), None)
        return reasoning, response
    if solutions:
        return None, solutions[0]
    empty = next((name for name in _SOLUTIONS if name in row), None)
    return None if empty is None else (None, empty)


def _reasons(row, name):
    text = _text(row, name)[0]
    return bool(text.strip()) and text.strip().lower() not in _SWITCHES


def _text(row, name) -> tuple[str, str]:
    """The text of a column, and which one it is of several: verified ones count first, as OpenR1-Math marks them."""
    value = row.get(name)
    if isinstance(value, str):
        return value, ""
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        return "", ""
    verified = row.get("correctness_math_verify")
    if len(value) > 1 and isinstance(verified, (list, tuple)) and len(verified) == len(value) and any(verified):
        complete = row.get("is_reasoning_complete")
        whole = complete if isinstance(complete, (list, tuple)) and len(complete) == len(value) else verified
        both = [i for i in range(len(value)) if verified[i] and whole[i]]
        first = both[0] if both else list(map(bool, verified)).index(True)
        return value[first], " (the first verified one of several)"
    return (value[0] if value else ""), " (the first of several)" if len(value) > 1 else ""


def _check_text(row, name, option):
    value = row[name]
    if value is not None and not isinstance(value, str) and value != [] and not _text(row, name)[0]:
        raise ValueError(
            f"`{option}` is {name!r}, which holds a {type(value).__name__} and no text. Pass the name of a column of "
            "texts."
        )


def _question(row, name, templated):
    """The question, with the input that belongs to an instruction of Alpaca's."""
    value = row[name] or ""
    if not isinstance(value, (str, list)):
        raise ValueError(
            f"The column {name!r} holds a {type(value).__name__} where a question belongs. Pass the name of a column "
            "of texts or messages as `question_column`."
        )
    if name == "instruction" and not templated and isinstance(row.get("input"), str) and row["input"].strip():
        return f"{value}\n{row['input']}", "'instruction', 'input'"
    return value, repr(name)


def _messages_before(row):
    """The system prompt and the earlier turns of Alpaca's and Nemotron's rows."""
    system = next((row[name] for name in ("system_prompt", "system") if row.get(name)), None)
    messages = [{"role": "system", "content": system}] if isinstance(system, str) else []
    for turn in row.get("history") or ():
        for role, content in zip(("user", "assistant"), turn, strict=False):
            messages.append({"role": role, "content": content})
    return messages
