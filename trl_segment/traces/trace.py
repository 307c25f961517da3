r"""One type, [`Trace`], that every dataset format becomes. All about an example's text is decided here, once."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .answers import answer_of_field
from .columns import COLUMN_OPTIONS, find_answer, find_columns
from .marks import (
    DEFAULT_CLOSING,
    Marks,
    Reasoning,
    Span,
    answer_of_completion,
    asks_again,
    find_reasoning,
    split_text,
    strip_marks,
)
from .segmentation import Segmenter, SlowPatternError, check_segmenter, segment_text


# What the paper asks of the model.
QUESTION_TEMPLATE = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
# Types of content parts that hold the model's thinking
_REASONING_PARTS = ("thinking", "reasoning", "think", "thought", "reasoning_text")
# What stands in a note where no response was found
_WHOLE = "the whole completion, the response included,"


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
            Column with the right answer. Where a row lacks it, the answer that the response states is taken: the last
            `\boxed{}`, else what follows the last `####`, else what is announced, see
            [`~trl_segment.traces.extract_answer`]. In rows that are in no format of TRL's, `expected_answer` and other
            known columns stand in for a missing `answer`.
        question_column (`str`, *optional*):
            Column with the question, text or messages. This option and the next three are for datasets whose columns
            are not found by themselves ([`build_trace`] says which are); they win over every format of TRL's. A row
            without the column is an error.
        solution_column (`str`, *optional*):
            Column with reasoning and response in one text, or a list of them, of which one is read.
        reasoning_column (`str`, *optional*):
            Column with the reasoning alone.
        response_column (`str`, *optional*):
            Column with the response alone, beside a column of reasoning.
        question_template (`str`, *optional*):
            User turn made of a `question` or `problem` column, or of `question_column`; `{question}` stands for it.
            Defaults to the paper's: the question, then "Please reason step by step, and put your final answer within
            \boxed{}.". Columns of complete prompts (`instruction`, `input`, `prompt`) are taken as they are.
        reasoning_start (`str`, *optional*):
            Opens the reasoning, in place of `<think>` and the other forms that are known
            ([`~trl_segment.traces.KNOWN_MARKS`]). `""` for the beginning of the completion.
        reasoning_end (`str`, *optional*):
            Ends the reasoning. Where only `reasoning_start` is set, any known closing mark does.

    Raises:
        `ValueError`: On an unknown segmenter, a bad pattern, a template without `{question}`, an empty
            `reasoning_end`, or `solution_column` beside `reasoning_column` or `response_column`.
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
            "help": "Column with the right answer. Where a row lacks it, the last boxed expression of the response "
            "is taken, else what follows the last '####', else what is announced as the answer."
        },
    )
    question_column: str | None = field(
        default=None, metadata={"help": "Column with the question, where that is none of the known ones."}
    )
    solution_column: str | None = field(
        default=None, metadata={"help": "Column with reasoning and response, where that is none of the known ones."}
    )
    reasoning_column: str | None = field(
        default=None, metadata={"help": "Column with the reasoning alone, where that is none of the known ones."}
    )
    response_column: str | None = field(
        default=None, metadata={"help": "Column with the response alone, beside a column of reasoning."}
    )
    question_template: str = field(
        default=QUESTION_TEMPLATE,
        metadata={"help": "User turn made of a `question` column; {question} stands for it."},
    )
    reasoning_start: str | None = field(
        default=None,
        metadata={
            "help": "Opens the reasoning, where that is none of the known forms (<think>, [THINK], ...); empty for "
            "the beginning of the completion."
        },
    )
    reasoning_end: str | None = field(
        default=None, metadata={"help": "Ends the reasoning, where that is none of the known forms (</think>, ...)."}
    )

    def __post_init__(self) -> None:
        check_segmenter(self.segmenter, self.segment_pattern)
        if "{question}" not in self.question_template:
            raise ValueError(
                f"`question_template` {self.question_template!r} has no {{question}} in it, so no question would "
                "reach the model. Put {question} where the question belongs."
            )
        if self.reasoning_end == "":
            raise ValueError(
                "`reasoning_end` is empty, so the reasoning would end where it begins. Pass the text that ends it, or "
                "leave the option out."
            )
        if self.solution_column is not None and (self.reasoning_column, self.response_column) != (None, None):
            raise ValueError(
                f"`solution_column` {self.solution_column!r} holds reasoning and response in one text, so it does not "
                f"go with reasoning_column={self.reasoning_column!r} and response_column={self.response_column!r}. "
                "Set it alone, or these two."
            )
        # The config classes of the trainer inherit from this one and from TrainingArguments
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]

    @property
    def marks(self) -> Marks | None:
        """Marks of reasoning that the user has named."""
        if self.reasoning_start is None and self.reasoning_end is None:
            return None
        return Marks(self.reasoning_start, self.reasoning_end)

    @property
    def names_columns(self) -> bool:
        """Whether the user has named columns, which then win over the formats of TRL."""
        return any(getattr(self, option) is not None for option in COLUMN_OPTIONS)


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
        closing (`str`, *optional*, defaults to `"</think>"`):
            What ends a reasoning and opens the response in the form of this completion.
        note (`str`, *optional*):
            What was taken where the row does not say it: without marks of reasoning, or an answer out of more text.
        reading (`str`, *optional*):
            The way that the row was read, for people: its columns, what ends the reasoning, where the answer stands.
        response (`int`, *optional*):
            Where the response begins in `completion`; its end where the reasoning holds the response.
    """

    prompt: str | list[dict]
    completion: str
    reasoning: Span
    segments: tuple[Span, ...]
    answer: str | None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    closing: str = DEFAULT_CLOSING
    note: str | None = None
    reading: str = field(default="", compare=False)
    response: int | None = field(default=None, compare=False)

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
            *([self.closing] if self.closing != DEFAULT_CLOSING else []),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]

    @property
    def response_inside(self) -> bool:
        """Whether nothing says where the reasoning ends, so that it holds the response too."""
        return self.note is not None and _WHOLE in self.note

    @property
    def segment_texts(self) -> list[str]:
        """Text of each segment, in order."""
        return [self.completion[start:end] for start, end in self.segments]


def build_trace(
    row: Mapping[str, Any],
    config: TraceConfig | None = None,
    segmenter: Segmenter | None = None,
    answer_func: Callable[[Mapping[str, Any]], str | None] | None = None,
    text_column: str = "text",
) -> Trace:
    r"""
    Read a dataset row of any format that TRL's `SFTTrainer` takes, or with the columns of other datasets.

    Args:
        row (`Mapping`):
            Row with `prompt` and `completion`, `messages`, `conversations` or `text`. Where several apply, the first
            of this list counts, as in TRL. Else a row with a question (`question`, `problem`, `query`), or a prompt
            that is complete (`instruction` and `input`, `input`, `prompt`), and a solution (`solution`,
            `generated_solution`, `generations`, `generation`, `response`, `output`) or a reasoning and its response
            (s1K's columns, `reasoning` and `generation`, ...). A column of reasoning wins over a solution, and a
            solution with marks over one without.
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
    found_row = _read_row(row, config, text_column)
    prompt, completion, span, problem = found_row[:4]
    answer_column = config.answer_column
    if found_row.columns is not None:
        answer_column = find_answer(row, answer_column) or answer_column
    column = answer_func(row) if answer_func is not None else row.get(answer_column)
    answer, unfit, reduced = answer_of_field(column)
    source = "your function" if answer_func is not None else repr(answer_column)
    if span is None:
        found = find_reasoning(completion, config.marks, answer)
    else:
        found = Reasoning(*span, completion.find(DEFAULT_CLOSING, span[1]) + len(DEFAULT_CLOSING), DEFAULT_CLOSING)
    start, end = found.start, found.end
    note = None
    if found.closing is None:
        note = f"no marks of reasoning such as <think>, so {_taken(end, completion)} was taken for it"
    if found_row.others:
        others = " and ".join(map(repr, found_row.others))
        note = "; ".join(filter(None, (f"{found_row.columns} were read, and {others} not", note)))
    segments: tuple[Span, ...] = ()
    if problem is None and not any(completion[a:b].strip() for a, b in found.parts or ((start, end),)):
        problem = "no reasoning"
    problem = problem or found.problem
    if problem is None:
        try:
            segments = _segments(completion, found, segmenter, config)
        except SlowPatternError as error:
            problem = str(error)

    if answer is None and answer_func is None:
        answer, source = answer_of_completion(completion, found), "the response"
    problem = problem or unfit
    if answer is None:
        problem = problem or (
            f"no answer: neither a column {config.answer_column!r} nor \\boxed{{}}, #### or an announcement in the "
            "response"
        )
    elif not answer:
        problem = problem or "the answer is empty"
    note = None if problem else "; ".join(filter(None, (note, reduced))) or None
    closing = found.closing or DEFAULT_CLOSING
    ended = "reasoning in a field of its own" if span is not None else f"reasoning up to {found.closing}"
    reading = (
        f"{found_row.columns or _format(row, text_column)}; {'no marks' if found.closing is None else ended}; answer "
        f"from {source}"
    )
    return Trace(
        prompt,
        completion,
        (start, end),
        segments,
        answer,
        template_kwargs(row),
        problem,
        closing,
        note,
        reading,
        found.response,
    )


def _segments(completion: str, found: Reasoning, segmenter: Segmenter | None, config: TraceConfig) -> tuple[Span, ...]:
    """The segments of a reasoning. Marks between its messages go with the segment behind them."""
    segments: list[Span] = []
    for start, end in found.parts or ((found.start, found.end),):
        pattern = None if segmenter else config.segment_pattern
        text = completion[start:end]
        spans = segment_text(text, segmenter or config.segmenter, pattern) if text.strip() else []
        for _, stop in spans:
            segments.append((segments[-1][1] if segments else found.start, start + stop))
    return (*segments[:-1], (segments[-1][0], found.end))


def _taken(end: int, completion: str) -> str:
    if end == len(completion):
        return _WHOLE
    return "everything in front of the paragraph that states the answer"


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


def describe_names(names_by_reason: Mapping[str, list[str]], most: int = 5) -> str:
    """
    Rows by reason, for a message.

    Args:
        names_by_reason (`Mapping[str, list[str]]`):
            Names of rows by reason.
        most (`int`, *optional*, defaults to `5`):
            How many names a line has.

    Returns:
        `str`: One line per reason, with the first names.
    """
    return "\n".join(
        f"  {len(names)} x {reason}: {', '.join(names[:most])}{', ...' if len(names) > most else ''}"
        for reason, names in names_by_reason.items()
    )


def describe_notes(names_by_note: Mapping[str, list[str]], total: int) -> str:
    """
    What was taken where rows do not say it.

    Args:
        names_by_note (`Mapping[str, list[str]]`):
            Names of rows by [`Trace`]'s `note`.
        total (`int`):
            Number of all rows.

    Returns:
        `str`: A message.
    """
    count = len({name for names in names_by_note.values() for name in names})
    return (
        f"{count} of {total} traces do not say where their reasoning or their answer stands:\n"
        f"{describe_names(names_by_note)}\n"
        "Set `reasoning_start` and `reasoning_end` to other marks of reasoning, and `answer_column` to a column with "
        "the answer alone."
    )


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


class _Row(NamedTuple):
    """What a row holds: the reasoning's span is `None` where it is to be found by its marks."""

    prompt: str | list[dict]
    completion: str
    span: Span | None
    problem: str | None
    columns: str | None = None
    others: tuple[str, ...] = ()


def _read_row(row: Mapping[str, Any], config: TraceConfig, text_column: str) -> _Row:
    if config.names_columns:
        read = _read_columns(row, config)
        if read is None:
            raise ValueError(
                f"A row with the columns {sorted(row)} has no {_lacking(config)} beside the column that was named. "
                "Set `question_column` and `solution_column`, or `question_column`, `reasoning_column` and "
                "`response_column`."
            )
        return read
    if row.get("prompt") is not None and row.get("completion") is not None:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and not isinstance(completion, str):
            return _Row(prompt, "", None, "'prompt' is text and 'completion' is messages")
        if not isinstance(prompt, str):
            prompt = [_chatml(message) for message in prompt]
        if isinstance(completion, str):
            return _Row(prompt, completion, None, None)
        completion = [_chatml(message) for message in completion]
        # The last of several turns is segmented; the earlier ones are context
        return _Row(prompt + completion[:-1], *_read_completion(completion[-1:]))
    messages = row.get("messages") or row.get("conversations")
    if messages:
        messages = [_chatml(message) for message in messages]
        completion, reasoning, problem = _read_completion(messages[-1:])
        if len(messages) == 1 and problem is None:
            problem = "nothing before the assistant's turn"
        return _Row(messages[:-1], completion, reasoning, problem)
    if row.get(text_column) is not None:
        text = row[text_column]
        split = split_text(text, config.marks)
        if split is None:
            return _Row("", text, None, "plain text that does not say where the response begins")
        problem = "the last turn is not the assistant's" if asks_again(text, split, config.marks) else None
        return _Row(text[:split], text[split:], None, problem)
    if (read := _read_columns(row, config)) is not None:
        return read
    for names in (("prompt", "completion"), ("messages",), ("conversations",), (text_column,)):
        if all(name in row for name in names):
            return _Row("", "", None, f"no {' and '.join(name for name in names if not row[name])}")
    raise ValueError(
        f"A row with the columns {sorted(row)} is not in a format that can be read. Expected 'prompt' and "
        f"'completion', 'messages', 'conversations', {text_column!r}, or 'question' and 'solution'. Name the columns "
        "with `question_column` and `solution_column` (or `reasoning_column` and `response_column`), or set "
        "`dataset_text_field` for plain text under another name."
    )


def _read_columns(row: Mapping[str, Any], config: TraceConfig) -> _Row | None:
    """A row that is in no format of TRL's."""
    found = find_columns(row, config)
    if found is None:
        return None
    if isinstance(found.question, str):
        content = config.question_template.replace("{question}", found.question) if found.templated else found.question
        asked = [{"role": "user", "content": content}]
    else:
        asked = [_chatml(message) for message in found.question]
    if found.reasoning:
        completion, span = _with_reasoning(found.reasoning, found.response)
    else:
        completion, span = found.response, None
    return _Row([*found.before, *asked], completion, span, found.problem, found.label, found.others)


def _lacking(config: TraceConfig) -> str:
    if config.question_column is None:
        return "question that is known"
    return "solution that is known"


def _format(row: Mapping[str, Any], text_column: str) -> str:
    if row.get("prompt") is not None and row.get("completion") is not None:
        return "'prompt' and 'completion'"
    return next((repr(name) for name in ("messages", "conversations") if row.get(name)), repr(text_column))


def _chatml(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with `role` and `content`, also from ShareGPT's `from` and `value`; empty fields left out."""
    renamed = {{"from": "role", "value": "content"}.get(key, key): value for key, value in message.items()}
    return _filled(renamed)


def _filled(value: Any) -> Any:
    # Arrow gives every message of a column, and every part of a message, all keys that any has, as None
    if isinstance(value, Mapping):
        return {key: _filled(entry) for key, entry in value.items() if entry is not None}
    return [_filled(entry) for entry in value] if isinstance(value, list) else value


def message_text(message: Mapping[str, Any]) -> str:
    """
    Text of a message, whose content may be a list of parts. Thinking is left out.

    Args:
        message (`Mapping`):
            Message with `content`.

    Returns:
        `str`: Its text, empty if it has none.
    """
    return _content_text(message.get("content"))


def _content_text(content: Any, reasoning: bool = False) -> str:
    """
    Text of a message's content, which may be a list of parts: of those that are the model's thinking, or of all
    others. Magistral's thinking is a list of parts itself.
    """
    if content is None or isinstance(content, str):
        return "" if reasoning else content or ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, Mapping):
            texts += [] if reasoning else [str(part)]
        elif (str(part.get("type")) in _REASONING_PARTS) == reasoning:
            names = (*_REASONING_KEYS, "text", "summary", "content") if reasoning else ("text", "content")
            inner = next((part[name] for name in names if part.get(name)), "")
            texts.append(inner if isinstance(inner, str) else _content_text(inner))
    return "".join(texts)


def _read_completion(messages: list[dict[str, Any]]) -> tuple[str, Span | None, str | None]:
    """Completion text, reasoning span and problem of the last turn."""
    if not messages or messages[0].get("role") not in ("assistant", "gpt", "model"):
        return "", None, "the last message is not the assistant's"
    message = messages[0]
    content = message_text(message)
    thinking = [_content_text(message.get("content"), reasoning=True), *map(message.get, _REASONING_KEYS)]
    for reasoning in thinking:
        if reasoning:
            return *_with_reasoning(_content_text(reasoning), content), None
    return content, None, None


def _with_reasoning(reasoning: str, response: str) -> tuple[str, Span]:
    """A completion of a reasoning that stood in a field of its own, and its span."""
    opening, reasoning = "<think>\n", strip_marks(reasoning)
    return f"{opening}{reasoning}\n</think>\n\n{response}", (len(opening), len(opening) + len(reasoning))
