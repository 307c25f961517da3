"""The steps of preparation, row by row: from a row to its trace, its text, and tokens that know their segment."""

import dataclasses
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Features, Sequence, Value

from ..printing import get_logger
from ..store import KeyIndex
from ..store.rows import check_segments
from ..traces import (
    Trace,
    TraceConfig,
    UnplacedError,
    build_trace,
    describe_segmenter,
    encode_with_spans,
    join_completion,
    load_segmenter,
    locate_segments,
    naming_errors,
    read_text,
    render_prompt,
    row_name,
    template_kwargs,
    training_units,
)
from .segment_table import SegmentTable


logger = get_logger(__name__)

# Rows of a stream that are named for each reason
_NAMED = 5
# Column with the unit of each token, see [`~trl_segment.traces.training_units`]
UNITS_COLUMN = "segment_units"
# The same for evaluation sets, whose labels stay as they are
EVAL_UNITS_COLUMN = "eval_segment_units"
# Why the segments of a row have no place among its tokens; empty if they have. It does not outlive the preparation.
UNPLACED_COLUMN = "segment_unplaced"
# Column with what stood in `prompt` and `completion` before a row became messages
OVERWRITTEN_COLUMN = "segment_overwritten"
# Column that carries the trace of a streamed row through TRL's own steps
_TRACE_COLUMN = "segment_trace"


def naming_its_row(step: Callable) -> Callable:
    """A step whose errors, those of the user's functions among them, begin with the name of the row."""

    @functools.wraps(step)
    def named(row, index, *args, **kwargs):
        with naming_errors(row_name(row, index)):
            return step(row, index, *args, **kwargs)

    return named


@dataclass
class TraceReader:
    """
    From a row of the training set to its trace.

    Args:
        config ([`~trl_segment.TraceConfig`]):
            How rows are read.
        segmenter (`Callable`, *optional*):
            The user's function that cuts, in place of `config.segmenter`.
        answer_func (`Callable`, *optional*):
            The user's function that finds a row's answer, in place of `config.answer_column`.
        text_column (`str`):
            Column of the language-modeling format.
        formatting_func (`Callable`, *optional*):
            The user's function that makes text of a row.
    """

    config: TraceConfig
    segmenter: Callable | None
    answer_func: Callable | None
    text_column: str
    formatting_func: Callable | None

    def __call__(self, row: Mapping[str, Any], question: bool = False) -> Trace:
        if question:  # what the row was before it became messages, which do not show that something is missing
            ours = ("prompt", "completion", OVERWRITTEN_COLUMN)
            row = {
                **{name: value for name, value in row.items() if name not in ours},
                **json.loads(row.get(OVERWRITTEN_COLUMN) or "{}"),
            }
        # The user's function gets the user's row
        answer_func = None if self.answer_func is None else lambda _: self.answer_func(row)
        return build_trace(self._formatted(row), self.config, self.segmenter, answer_func, self.text_column)

    def text_of(self, row: Mapping[str, Any]) -> Trace:
        """The row's prompt and completion, as a trace that nobody has cut into segments."""
        # A row that has become messages is read from them, whatever columns were named
        config = None if OVERWRITTEN_COLUMN in row else self.config
        prompt, completion = read_text(self._formatted(row), config, self.text_column)
        return Trace(prompt, completion, (0, 0), (), None, template_kwargs(row))

    def restore(self, row: Mapping[str, Any], described: Mapping[str, Any]) -> Trace:
        """The trace of a row that was cut before, from what [`describe_trace`] has kept of it."""
        return dataclasses.replace(
            self.text_of(row),
            reasoning=tuple(described["reasoning"]),
            segments=tuple(itertools.pairwise(described["bounds"])),
            answer=described["answer"],
            problem=described["problem"],
            closing=described["closing"],
        )

    def _formatted(self, row):
        if self.formatting_func is None or "prompt" in row:
            return row
        answer = row.get(self.config.answer_column)
        return {self.text_column: self.formatting_func(row), self.config.answer_column: answer}

    def described(self) -> list[Any]:
        """What its traces depend on besides the rows, for fingerprints: also the source of the user's functions."""
        functions = [self.segmenter, self.answer_func, self.formatting_func]
        if ":" in self.config.segmenter:
            functions.append(load_segmenter(self.config.segmenter))
        sources = [describe_segmenter(function) for function in functions if function is not None]
        return [dataclasses.asdict(self.config), self.text_column, sources, functions]


@naming_its_row
def question_to_messages(row, index, reader):
    trace = reader.text_of(row)
    overwritten = {name: row[name] for name in ("prompt", "completion") if name in row}
    return {
        "prompt": trace.prompt,
        "completion": [{"role": "assistant", "content": trace.completion}],
        OVERWRITTEN_COLUMN: json.dumps(overwritten),
    }


@naming_its_row
def describe_trace(row, index, reader, question):
    """Where the segments of a row lie: the only place where a row is cut."""
    trace = reader(row, question)
    return {
        "key": trace.key,
        "name": row_name(row, index),
        "num_segments": 0 if trace.problem else len(trace.segments),
        "problem": trace.problem,
        "closing": trace.closing,
        "note": trace.note,
        "answer": trace.answer,
        "reasoning": list(trace.reasoning),
        "bounds": [start for start, _ in trace.segments] + [end for _, end in trace.segments[-1:]],
    }


# Arrow would take the type of a column from the first rows, where it may be null in all of them
DESCRIBED = Features(
    {
        **{name: Value("string") for name in ("key", "name", "problem", "closing", "note", "answer")},
        "num_segments": Value("int64"),
        **{name: Sequence(Value("int64")) for name in ("reasoning", "bounds")},
    }
)


@naming_its_row
def render_verbatim(row, index, tokenizer, reader):
    trace = reader.text_of(row)
    # Whether the template loses the words of every prompt was asked before
    prompt = render_prompt(trace, tokenizer, whole=False)
    bos = tokenizer.bos_token
    # TRL tokenizes text with the tokenizer's own special tokens, of which the template has written this one already
    doubled = [tokenizer.bos_token_id] * 2
    if not isinstance(trace.prompt, str) and bos and tokenizer(prompt, verbose=False)["input_ids"][:2] == doubled:
        prompt = prompt.removeprefix(bos)
    return {"prompt": prompt, "completion": join_completion(prompt, trace.completion)[0]}


def training_text(row, tokenizer, chat_template, text_column) -> tuple[str, bool]:
    """
    The text that TRL tokenized a prepared row from.

    Args:
        row (`dict`):
            Row as TRL prepared it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the trained model.
        chat_template (`str` or `None`):
            Template that TRL rendered with, if not the tokenizer's.
        text_column (`str`):
            Column of the language-modeling format.

    Returns:
        `tuple[str, bool]`: The text, and whether the tokenizer added special tokens.
    """
    if "prompt" in row and isinstance(row["prompt"], str):
        return row["prompt"] + row["completion"], True
    messages = row["prompt"] + row["completion"] if "prompt" in row else row.get("messages")
    if messages is None:
        return row[text_column], True
    text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=chat_template, **template_kwargs(row))
    return text, False


@naming_its_row
def carry_trace(row, index, reader, question):
    """Write the trace of a streamed row beside it, since later steps cannot go back to the row as it was."""
    trace = reader(row, question)
    return {_TRACE_COLUMN: json.dumps({"key": trace.key, **dataclasses.asdict(trace)})}


def prune(row, trained):
    kept = trained[np.asarray(row[UNITS_COLUMN])]
    return {name: np.asarray(row[name])[kept] for name in ("input_ids", "labels", UNITS_COLUMN)}


def cut_units(row, cut):
    return {UNITS_COLUMN: row[UNITS_COLUMN][slice(*cut)]}


class StreamedOffsets:
    """
    What to add to the units of a streamed row. Its trace is read row by row, its place in the table is the store's.

    Args:
        table ([`~trl_segment.trainer.SegmentTable`]):
            A trace for each row of the store.
    """

    def __init__(self, table: SegmentTable):
        self._places = KeyIndex(table.keys, range(len(table.keys)))
        self._offsets, self._num_segments = table.offsets, table.num_segments
        self._unplaced: Counter[str] = Counter()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def find(self, key: str, segments: int, name: str) -> int | None:
        """
        The offset of a trace.

        Args:
            key (`str`):
                Its key.
            segments (`int`):
                Number of its segments.
            name (`str`):
                What it is called.

        Returns:
            `int` or `None`: The offset; `None` if the store says that it cannot be attributed: then it has no units.

        Raises:
            `ValueError`: If the store has numbers for more or fewer segments: units would be those of other traces.
        """
        place = self._places.get(key)
        if place is None or self._num_segments[place] == 0:
            return None
        check_segments(int(self._num_segments[place]), segments, name)
        return int(self._offsets[place])

    def leave_out(self, name: str, reason: str) -> None:
        """
        Say that a row is trained in full. How many there will be is not known: the first are named, then every
        doubling is.

        Args:
            name (`str`):
                What the row is called.
            reason (`str`):
                Why.
        """
        self._unplaced[reason] += 1
        count = self._unplaced[reason]
        if count <= _NAMED or count & (count - 1) == 0:
            logger.warning(f"{name} of the streamed dataset is trained in full: {reason} ({count} so far).")


@naming_its_row
def add_units(row, index, rows, described, reader, tokenizer, chat_template, offsets, cut, tokenized, column):
    """
    The units of a prepared row's tokens.

    Args:
        row (`dict`):
            Row as TRL prepared it, with `input_ids`.
        index (`int`):
            Its number.
        rows ([`~datasets.Dataset`] or `None`):
            The rows as they were; `None` if they are streamed, and carry their trace.
        described ([`~datasets.Dataset`] or `None`):
            What [`describe_trace`] says of them.
        reader ([`TraceReader`]):
            Reads them.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the trained model.
        chat_template (`str` or `None`):
            Template that TRL rendered with, if not the tokenizer's.
        offsets (`np.ndarray` or [`StreamedOffsets`]):
            What to add to a row's units to make them unique, by row number; for streamed rows by key.
        cut (`tuple[int | None, int | None]`):
            Tokens to keep.
        tokenized (`bool`):
            Whether the row came with its tokens.
        column (`str`):
            Where the units go.

    Returns:
        `dict`: The column of units, int32: zeros for a row that is trained in full. Beside it, unless rows are
        streamed, why its segments could not be placed.

    Raises:
        `ValueError`: If a streamed row has no attribution, or a column of labels is none.
    """
    try:
        units, reason = (
            place_units(row, index, rows, described, reader, tokenizer, chat_template, offsets, tokenized),
            "",
        )
    except UnplacedError as error:
        units, reason = np.zeros(len(row["input_ids"]), dtype=np.int32), error.reason
    if rows is None:
        if reason:
            offsets.leave_out(row_name(row, index), reason)
        return {column: units[slice(*cut)]}
    return {column: units[slice(*cut)], UNPLACED_COLUMN: reason}


def place_units(row, index, rows, described, reader, tokenizer, chat_template, offsets, tokenized) -> np.ndarray:
    """
    As [`add_units`], of whose arguments these are, without cutting.

    Returns:
        `np.ndarray`: The unit of each token, shape (tokens,), int32.

    Raises:
        [`UnplacedError`]: If the reasoning is not in the training text, or the text does not give the row's tokens.
    """
    if rows is None:
        carried = json.loads(row[_TRACE_COLUMN])
        key = carried.pop("key")
        trace, name = Trace(**carried), row_name(row, index)
        if trace.problem is None and key not in offsets:
            raise ValueError(
                f"{name} of the streamed dataset has no attribution in the store. Attributions belong to a trace's "
                "exact prompt, reasoning, answer and segments. Run `trl-segment attribute` on the same rows with the "
                "same segmenter and columns."
            )
        offset = offsets.find(key, len(trace.segments), name)
    else:
        trace, name, offset = reader.restore(rows[index], described[index]), described[index]["name"], offsets[index]
    labels = row.get("labels")
    if labels is not None and np.shape(labels) != np.shape(row["input_ids"]):
        raise ValueError(
            f"{name}: the dataset's own column 'labels' holds {labels if np.ndim(labels) == 0 else len(labels)!r} "
            f"{'' if np.ndim(labels) == 0 else 'entries '}for {len(row['input_ids'])} tokens. SFTTrainer takes this "
            "column for token labels: rename it if it holds something else."
        )
    if trace.problem is not None or offset is None:
        return np.zeros(len(row["input_ids"]), dtype=np.int32)
    text, special = training_text(row, tokenizer, chat_template, reader.text_column)
    wanted = np.asarray(row["input_ids"])
    ways = [(text, special)]
    if tokenized:
        # Whoever did it may have done it otherwise; only where no text beside the tokens fits is one made of them
        ended = text + (tokenizer.eos_token or "")
        ways += [(text, not special), (ended, True), (ended, False), (tokenizer.decode(wanted), False)]
    for text, add_special_tokens in ways:
        ids, spans = encode_with_spans(tokenizer, text, add_special_tokens)
        # Rows that came with their tokens may have been cut
        if np.array_equal(ids[: len(wanted)] if tokenized else ids, wanted):
            break
    else:
        raise UnplacedError(
            f"{name}: this example has {len(wanted)} tokens, but its text gives {len(ids)} or others, so segments "
            "cannot be placed. If it was tokenized beforehand, use the trainer's own tokenizer and template, or leave "
            "'input_ids' out; if the chat template depends on the time or on chance, fix it.",
            "its text does not give its tokens",
        )
    spans = spans[: len(wanted)]
    try:
        segments = locate_segments(text, trace, tokenizer.name_or_path)
    except UnplacedError as error:
        if not tokenized or text is not ways[-1][0]:
            raise
        raise UnplacedError(
            f"{name}: the dataset's own column 'input_ids' holds other tokens than those of the text beside it: the "
            f"reasoning, starting {trace.completion[slice(*trace.reasoning)].strip()[:40]!r}, is not among them. "
            "Tokenize the text with the trainer's own tokenizer, or leave 'input_ids' out.",
            "its tokens are not those of the text beside them",
        ) from error
    units = training_units(text, spans, segments)
    units[units > 0] += offset
    return units
