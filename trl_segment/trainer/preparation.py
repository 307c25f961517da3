"""From rows to tokens that know their segment: the steps that dataset preparation adds to TRL's."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher, generate_random_fingerprint
from transformers import PreTrainedTokenizerBase

from ..traces import (
    Trace,
    TraceConfig,
    build_trace,
    encode_with_spans,
    join_completion,
    locate_segments,
    render_prompt,
    row_name,
    template_kwargs,
    training_units,
)


# Column with the unit of each token, see [`~trl_segment.traces.training_units`]
UNITS_COLUMN = "segment_units"
# The same for evaluation sets, whose labels stay as they are
EVAL_UNITS_COLUMN = "eval_segment_units"
# Column that carries the trace of a streamed row through TRL's own steps
_TRACE_COLUMN = "segment_trace"


@dataclass
class TraceReader:
    """From a row of the training set to its trace."""

    config: TraceConfig
    segmenter: Callable | None
    answer_func: Callable | None
    text_column: str
    formatting_func: Callable | None

    def __call__(self, row: Mapping[str, Any]) -> Trace:
        formatted = row
        if self.formatting_func is not None and "prompt" not in row:
            answer = row.get(self.config.answer_column)
            formatted = {self.text_column: self.formatting_func(row), self.config.answer_column: answer}
        # The user's function gets the user's row
        answer_func = None if self.answer_func is None else lambda _: self.answer_func(row)
        return build_trace(formatted, self.config, self.segmenter, answer_func, self.text_column)


def map_fingerprint(dataset: Dataset, step: str, tokenizer: PreTrainedTokenizerBase, *parts: Any) -> str:
    """
    Fingerprint of a step that uses a tokenizer, so that `datasets` need not pickle its whole vocabulary to find one.

    Args:
        dataset ([`~datasets.Dataset`]):
            What the step is applied to.
        step (`str`):
            Its name.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer; its own serialization counts.
        *parts:
            Everything else that changes what comes out.

    Returns:
        `str`: For `map(..., new_fingerprint=...)`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelled = None if backend is None else backend.to_str()
    try:
        return Hasher.hash([dataset._fingerprint, step, spelled, tokenizer.chat_template, *parts])
    except Exception:
        # A user's function that cannot be hashed, by whatever it raises: nothing is cached, as in `datasets` itself
        return generate_random_fingerprint()


def question_to_messages(row, reader):
    trace = reader(row)
    return {"prompt": trace.prompt, "completion": [{"role": "assistant", "content": trace.completion}]}


def describe_trace(row, index, reader):
    trace = reader(row)
    segments = 0 if trace.problem else len(trace.segments)
    return {"key": trace.key, "name": row_name(row, index), "num_segments": segments, "problem": trace.problem}


def render_verbatim(row, tokenizer, reader):
    trace = reader(row)
    prompt = render_prompt(trace, tokenizer)
    bos = tokenizer.bos_token
    # TRL tokenizes text with the tokenizer's own special tokens, of which the template has written this one already
    doubled = [tokenizer.bos_token_id] * 2
    if not isinstance(trace.prompt, str) and bos and tokenizer(prompt, verbose=False)["input_ids"][:2] == doubled:
        prompt = prompt.removeprefix(bos)
    return {"prompt": prompt, "completion": join_completion(prompt, trace.completion)[0]}


def _training_text(row, tokenizer, chat_template, text_column) -> tuple[str, bool]:
    """The text that TRL tokenized a prepared row from, and whether the tokenizer added special tokens."""
    if "prompt" in row and isinstance(row["prompt"], str):
        return row["prompt"] + row["completion"], True
    messages = row["prompt"] + row["completion"] if "prompt" in row else row.get("messages")
    if messages is None:
        return row[text_column], True
    text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=chat_template, **template_kwargs(row))
    return text, False


def carry_trace(row, reader):
    """Write the trace of a streamed row beside it, since later steps cannot go back to the row as it was."""
    trace = reader(row)
    return {_TRACE_COLUMN: json.dumps({"key": trace.key, **dataclasses.asdict(trace)})}


def prune(row, trained):
    kept = trained[np.asarray(row[UNITS_COLUMN])]
    return {name: np.asarray(row[name])[kept] for name in ("input_ids", "labels", UNITS_COLUMN)}


def cut_units(row, cut):
    return {UNITS_COLUMN: row[UNITS_COLUMN][slice(*cut)]}


def add_units(row, index, rows, reader, tokenizer, chat_template, offsets, cut, tokenized, column):
    """
    The units of a prepared row's tokens.

    Args:
        row (`dict`):
            Row as TRL prepared it, with `input_ids`.
        index (`int`):
            Its number.
        rows ([`~datasets.Dataset`] or `None`):
            The rows as they were; `None` if they are streamed, and carry their trace.
        reader ([`TraceReader`]):
            Reads them.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the trained model.
        chat_template (`str` or `None`):
            Template that TRL rendered with, if not the tokenizer's.
        offsets (`np.ndarray` or [`~trl_segment.attribution.key_index.KeyIndex`]):
            What to add to a row's units to make them unique, by row number; for streamed rows by key.
        cut (`tuple[int | None, int | None]`):
            Tokens to keep.
        tokenized (`bool`):
            Whether the row came with its tokens.
        column (`str`):
            Where the units go.

    Returns:
        `dict`: The column of units, int32.

    Raises:
        `ValueError`: If the reasoning is not in the training text, or a streamed row has no attribution.
        `RuntimeError`: If the text does not give the row's tokens.
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
        offset = offsets.get(key)
    else:
        trace, name, offset = reader(rows[index]), row_name(rows[index], index), offsets[index]
    if trace.problem is not None or offset is None:
        return {column: np.zeros(len(row["input_ids"]), dtype=np.int32)[slice(*cut)]}
    if tokenized:
        text, add_special_tokens = tokenizer.decode(row["input_ids"]), False
    else:
        text, add_special_tokens = _training_text(row, tokenizer, chat_template, reader.text_column)
    ids, spans = encode_with_spans(tokenizer, text, add_special_tokens)
    if not np.array_equal(ids, row["input_ids"]):
        raise RuntimeError(
            f"{name}: this example has {len(row['input_ids'])} tokens, but its text gives {len(ids)} or others, so "
            "segments cannot be placed. If it was tokenized beforehand, use the trainer's own tokenizer; if the chat "
            "template depends on the time or on chance, fix it."
        )
    units = training_units(text, spans, locate_segments(text, trace, tokenizer.name_or_path))
    units[units > 0] += offset
    return {column: units[slice(*cut)]}
