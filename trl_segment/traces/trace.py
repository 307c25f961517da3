r"""One type, [`Trace`], that every dataset format becomes. All about an example's text is decided here, once."""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .answers import extract_answer
from .segmentation import Segmenter, check_segmenter, segment_text


# What the paper asks of the model.
QUESTION_TEMPLATE = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
Span = tuple[int, int]


@dataclass
class TraceConfig:
    r"""
    How a dataset row is read: where the reasoning is cut and where the answer stands.

    Parameters:
        segmenter (`str`, *optional*, defaults to `"keywords"`):
            The starts of segments: `"keywords"` (the paper's openers after a blank line), `"retro_search"` (its wider
            list), `"paragraphs"` (every blank line), `"regex"` (wherever `segment_pattern` matches), or your own
            function as `"FILE.py:FUNCTION"` or `"MODULE:FUNCTION"`, see [`segment_text`].
        segment_pattern (`str`, *optional*):
            Regular expression for `segmenter="regex"`. A segment starts where it matches.
        answer_column (`str`, *optional*, defaults to `"answer"`):
            Column with the right answer. Where a row lacks it, the last `\boxed{}` of the completion is taken, else
            what follows the last `####`.
        question_template (`str`, *optional*):
            User turn made of a `question` column; `{question}` stands for it. Defaults to the paper's: the question,
            then "Please reason step by step, and put your final answer within \boxed{}.".

    Raises:
        `ValueError`: On an unknown segmenter, a bad pattern, or a template without `{question}`.
    """

    segmenter: str = field(
        default="keywords",
        metadata={
            "help": "The starts of segments: 'keywords' (the paper's openers after a blank line), 'retro_search' (its "
            "wider list), 'paragraphs' (every blank line), 'regex' (wherever `segment_pattern` matches), or "
            "your own function as FILE.py:FUNCTION."
        },
    )
    segment_pattern: str | None = field(
        default=None,
        metadata={"help": "Regular expression for `segmenter='regex'`: a segment starts where it matches."},
    )
    answer_column: str = field(
        default="answer",
        metadata={
            "help": "Column with the right answer. Where a row lacks it, the last boxed expression of the completion "
            "is taken, else what follows the last '####'."
        },
    )
    question_template: str = field(
        default=QUESTION_TEMPLATE,
        metadata={"help": "User turn made of a `question` column; {question} stands for it."},
    )

    def __post_init__(self) -> None:
        check_segmenter(self.segmenter, self.segment_pattern)
        if "{question}" not in self.question_template:
            raise ValueError(
                f"`question_template` {self.question_template!r} has no {{question}} in it, so no question would "
                "reach the model. Put {question} where the question belongs."
            )
        # The config classes of the trainer inherit from this one and from TrainingArguments
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]


@dataclass(frozen=True)
class Trace:
    """
    One example: a prompt, and a completion in which the reasoning and its segments are known.

    Args:
        prompt (`str` or `list[dict]`):
            Text (standard formats) or messages (conversational formats) in front of the completion.
        completion (`str`):
            Everything the model is to write, as the dataset has it: reasoning, its tags if any, and the response.
        reasoning (`tuple[int, int]`):
            Character span of the reasoning in `completion`, tags excluded.
        segments (`tuple[tuple[int, int], ...]`):
            Character spans in `completion` that cover the reasoning without gap or overlap.
        answer (`str` or `None`):
            The right final answer.
        template_kwargs (`dict`, *optional*):
            Arguments of the chat template that came with the row (`tools`, and those of `chat_template_kwargs`).
        problem (`str`, *optional*):
            Why this trace cannot be attributed. Such a trace is trained in full.
    """

    prompt: str | list[dict]
    completion: str
    reasoning: Span
    segments: tuple[Span, ...]
    answer: str | None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def key(self) -> str:
        """
        Hash of everything that its attributions depend on (hexadecimal, 32 digits): prompt, completion up to the end
        of the reasoning, segments and answer. The text behind the reasoning does not matter: the model is causal.
        """
        content = [
            self.prompt,
            self.completion[: self.reasoning[1]],
            self.segments,
            self.answer,
            self.template_kwargs,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]

    @property
    def segment_texts(self) -> list[str]:
        """Text of each segment, in order."""
        return [self.completion[start:end] for start, end in self.segments]


def find_reasoning(completion: str) -> Span:
    """
    Character span of the reasoning in a completion.

    Between `<think>` and `</think>`; up to `</think>` where only the closing tag is there (the R1 distills, whose
    prompt holds the opening one); after `<think>` where generation was cut; everything where there are no tags.

    Args:
        completion (`str`):
            Text that a model wrote.

    Returns:
        `tuple[int, int]`: Start and end, tags excluded.
    """
    opening = re.match(r"\s*<think>", completion)
    start = opening.end() if opening else 0
    end = completion.find("</think>", start)
    return (start, len(completion) if end < 0 else end)


def build_trace(
    row: Mapping[str, Any],
    config: TraceConfig | None = None,
    segmenter: Segmenter | None = None,
    answer_func: Callable[[Mapping[str, Any]], str | None] | None = None,
    text_column: str = "text",
) -> Trace:
    r"""
    Read a dataset row of any format that TRL's `SFTTrainer` takes, or a `question/solution/answer` row as in LIMO.

    Args:
        row (`Mapping`):
            Row with `prompt` and `completion`, `messages`, `conversations`, `text`, or `question` (also `problem`) and
            `solution`. Where several apply, the first of this list counts, as in TRL.
        config ([`TraceConfig`], *optional*):
            Segmenter and answer column. Defaults to the paper's.
        segmenter (`Callable`, *optional*):
            Overrides `config.segmenter`: takes the reasoning text, returns its pieces in order.
        answer_func (`Callable`, *optional*):
            Overrides `config.answer_column`: takes the row, returns the right answer or `None`.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.

    Returns:
        [`Trace`]: With `problem` set where the row cannot be attributed (no reasoning, no answer, no assistant turn).

    Raises:
        `ValueError`: If the row has none of these formats, or a callable segmenter loses text.
    """
    config = config or TraceConfig()
    prompt, completion, reasoning, problem = _read_row(row, config, text_column)
    if reasoning is None:
        reasoning = find_reasoning(completion)
    start, end = reasoning
    text = completion[start:end]
    segments: tuple[Span, ...] = ()
    if problem is None and not text.strip():
        problem = "no reasoning"
    if problem is None:
        spans = segment_text(text, segmenter or config.segmenter, None if segmenter else config.segment_pattern)
        segments = tuple((start + a, start + b) for a, b in spans)

    if answer_func is not None:
        answer = answer_func(row)
        answer = None if answer is None else _answer_text(answer)
    elif not _is_missing(row.get(config.answer_column)):
        answer = _answer_text(row[config.answer_column])
    else:
        answer = extract_answer(completion)
    if problem is None and answer is None:
        problem = f"no answer: neither a column {config.answer_column!r} nor \\boxed{{}} nor ####"
    elif answer is not None and not answer:
        problem = problem or "the answer is empty"

    return Trace(prompt, completion, reasoning, segments, answer, template_kwargs(row), problem)


def read_text(
    row: Mapping[str, Any], config: TraceConfig | None = None, text_column: str = "text"
) -> tuple[str | list[dict], str]:
    """
    Prompt and completion of a row, as [`build_trace`] reads them, without looking for segments.

    Args:
        row (`Mapping`):
            See [`build_trace`].
        config ([`TraceConfig`], *optional*):
            See [`build_trace`].
        text_column (`str`, *optional*, defaults to `"text"`):
            See [`build_trace`].

    Returns:
        `tuple[str | list[dict], str]`: Prompt, and completion.

    Raises:
        `ValueError`: If the row is in no known format.
    """
    return _read_row(row, config or TraceConfig(), text_column)[:2]


def row_name(row: Mapping[str, Any], index: int) -> str:
    """
    Name of a row in messages: its `id`, or its number.

    Args:
        row (`Mapping`):
            Dataset row.
        index (`int`):
            Its number.

    Returns:
        `str`: A name for people.
    """
    return str(row["id"]) if row.get("id") is not None else f"row {index}"


@contextlib.contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """
    Let every error begin with the name of the row at hand, those of the user's functions and of templates among them.

    Args:
        name (`str`):
            See [`row_name`].

    Raises:
        `ValueError`: In place of errors that do not name the row yet.
    """
    try:
        yield
    except Exception as error:
        if str(error).startswith(name):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{name}: {kind}{error}") from error


def template_kwargs(row: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments of the chat template that come with a row, as TRL reads them.

    Args:
        row (`Mapping`):
            May have the columns `tools` (a list, or one as JSON) and `chat_template_kwargs`.

    Returns:
        `dict`: Keyword arguments for `apply_chat_template`.
    """
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return {**({"tools": tools} if tools else {}), **(row.get("chat_template_kwargs") or {})}


def _read_row(
    row: Mapping[str, Any], config: TraceConfig, text_column: str
) -> tuple[str | list[dict], str, Span | None, str | None]:
    """Prompt, completion, reasoning span (`None`: to be found by its tags) and problem of a row."""
    if row.get("prompt") is not None and row.get("completion") is not None:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and not isinstance(completion, str):
            return prompt, "", None, "'prompt' is text and 'completion' is messages"
        if not isinstance(prompt, str):
            prompt = [_chatml(message) for message in prompt]
        if isinstance(completion, str):
            return prompt, completion, None, None
        completion = [_chatml(message) for message in completion]
        # Of several turns the last is segmented; the earlier ones are context
        return (prompt + completion[:-1], *_read_completion(completion[-1:]))
    messages = row.get("messages") or row.get("conversations")
    if messages:
        messages = [_chatml(message) for message in messages]
        completion, reasoning, problem = _read_completion(messages[-1:])
        if len(messages) == 1 and problem is None:
            problem = "nothing before the assistant's turn"
        return messages[:-1], completion, reasoning, problem
    if row.get(text_column) is not None:
        text = row[text_column]
        opening = text.rfind("<think>")
        split = opening if opening >= 0 else 0
        return text[:split], text[split:], None, None
    question = row.get("question") or row.get("problem")
    if "solution" in row and {"question", "problem"} & row.keys():
        content = config.question_template.replace("{question}", question or "")
        problem = None if question and row["solution"] is not None else f"no {'solution' if question else 'question'}"
        return [{"role": "user", "content": content}], row["solution"] or "", None, problem
    for names in (("prompt", "completion"), ("messages",), ("conversations",), (text_column,)):
        if all(name in row for name in names):
            return "", "", None, f"no {' and '.join(name for name in names if not row[name])}"
    raise ValueError(
        f"A row with the columns {sorted(row)} is not in a format that can be read. Expected 'prompt' and "
        f"'completion', 'messages', 'conversations', {text_column!r}, or 'question' and 'solution'. Rename the "
        "columns, or set `dataset_text_field` for plain text under another name."
    )


def _chatml(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with `role` and `content`, also from ShareGPT's `from` and `value`; empty fields left out."""
    renamed = {{"from": "role", "value": "content"}.get(key, key): value for key, value in message.items()}
    # Arrow gives every message, and every part of one, all keys that any has, as None
    whole = {key: value for key, value in renamed.items() if value is not None}
    if isinstance(whole.get("content"), (list, tuple)):
        parts = [part if isinstance(part, Mapping) else {"type": "text", "text": part} for part in whole["content"]]
        whole["content"] = [{key: value for key, value in part.items() if value is not None} for part in parts]
    return whole


def _read_completion(messages: list[dict[str, Any]]) -> tuple[str, Span | None, str | None]:
    """Completion text, reasoning span and problem of the last turn."""
    if not messages or messages[0].get("role") not in ("assistant", "gpt", "model"):
        return "", None, "the last message is not the assistant's"
    message = messages[0]
    content, reasoning = message.get("content", ""), message
    if not isinstance(content, str):
        thought = [part for part in content if {*_REASONING_KEYS} & {part.get("type"), *part}]
        content = _text_of([part for part in content if part not in thought])
        reasoning = {_REASONING_KEYS[0]: _text_of(thought)} if thought else message
    for key in _REASONING_KEYS:
        if reasoning.get(key):
            opening = "<think>\n"
            span = (len(opening), len(opening) + len(reasoning[key]))
            return f"{opening}{reasoning[key]}\n</think>\n\n{content}", span, None
    return content, None, None


def _text_of(parts: Any) -> str:
    """The text of the parts of a message; some hold parts in turn, as Mistral's do."""
    texts = []
    for part in parts:
        value = next((part[key] for key in (*_REASONING_KEYS, "text") if part.get(key)), "")
        texts.append(value if isinstance(value, str) else _text_of(_chatml({"content": value})["content"]))
    return "".join(texts)


def _is_missing(value: Any) -> bool:
    # pandas and CSV files say so with NaN
    return value is None or (isinstance(value, float) and math.isnan(value))


def _answer_text(value: Any) -> str:
    """A column's value as the model would write it: `27.0` from a float column is the integer 27."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_answer_text, value))
    return str(value).strip()
