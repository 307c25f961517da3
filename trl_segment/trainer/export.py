"""
The labels that training uses, as other trainers read them.

Labels come from a [`SegmentSelectiveSFTTrainer`] that never trains: its own preparation and its own collator make
them. Trainers that read tokens get them as they are. Trainers that read messages get the text cut where the labels
change, and each row is read back as that trainer reads it: where its labels are others, the row is refused.
"""

import bisect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from ..configs import config_of
from ..selection import SelectionConfig
from ..store import StoredAttribution
from ..traces import Trace, encode_with_spans, last_place, message_text, row_name, template_kwargs
from ._trl_compat import prepared_chat_template
from .config import SegmentSelectiveSFTConfig
from .rows import UNITS_COLUMN, training_text
from .sft_trainer import SegmentSelectiveSFTTrainer


# Number of each row, which TRL's steps carry along, since they leave rows out
_NUMBER_COLUMN = "export_row_number"


class RowRefusedError(ValueError):
    """A row cannot be handed over without a change of what is trained. The message fits every such row."""


@dataclass
class LabeledRow:
    """
    A row of the training set with the labels that it is trained with.

    Args:
        name (`str`):
            What it is called in messages.
        columns (`dict`):
            Row as TRL prepared it.
        trace ([`~trl_segment.Trace`] or `None`):
            Its trace; `None` with `selection="all"`, which reads none.
        input_ids (`np.ndarray`):
            Token IDs, shape (tokens,).
        labels (`np.ndarray`):
            Token IDs, -100 for tokens without loss, shape (tokens,).
        weights (`np.ndarray`):
            Loss weight of each token, float32, 0 for tokens without loss, shape (tokens,).
        chat_template (`str`, *optional*):
            Template that TRL rendered with, if not the tokenizer's.
    """

    name: str
    columns: Mapping[str, Any]
    trace: Trace | None
    input_ids: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    chat_template: str | None = None


def export_args(output_dir: str, **options: Any) -> SegmentSelectiveSFTConfig:
    """
    Settings of a training whose labels are exported, which needs no GPU and reports to nobody.

    Args:
        output_dir (`str`):
            Folder that the trainer may make. Nothing is written to it.
        **options:
            Other fields of [`SegmentSelectiveSFTConfig`].

    Returns:
        [`SegmentSelectiveSFTConfig`]: The settings.
    """
    return SegmentSelectiveSFTConfig(
        output_dir,
        use_cpu=True,
        bf16=False,
        report_to=[],
        **options,
    )


def labeled_rows(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    args: SegmentSelectiveSFTConfig,
    store: Mapping[str, StoredAttribution],
    refused: dict[str, list[str]],
) -> Iterator[LabeledRow]:
    """
    The rows of a training set with the labels that [`SegmentSelectiveSFTTrainer`] trains them with, in order.

    What is selected is printed, with the traces that are trained in full and why.

    Args:
        dataset ([`~datasets.Dataset`]):
            Training set in any format that the trainer takes.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model that is to be trained.
        args ([`SegmentSelectiveSFTConfig`]):
            Settings of the training, see [`export_args`]. With `dropped_segments="weight"` the rows have weights.
        store ([`~trl_segment.AttributionStore`]):
            Attributions of every trace of the training set.
        refused (`dict[str, list[str]]`):
            Names of the rows that have no trained token are added to it, by reason.

    Yields:
        [`LabeledRow`]: Each row with a trained token.

    Raises:
        `ValueError`: If the store lacks a trace, the rows are packed or pruned, or the trainer refuses the dataset.
    """
    if args.packing or args.dropped_segments == "prune":
        raise ValueError(
            "Rows are exported one by one and whole: leave `packing` and `dropped_segments='prune'` out. The other "
            "trainer may pack them."
        )
    names = [row_name(row, index) for index, row in enumerate(dataset.with_format(None))]
    dataset = dataset.add_column(_NUMBER_COLUMN, list(range(len(names))))
    trainer = SegmentSelectiveSFTTrainer(_stand_in(tokenizer), args, train_dataset=dataset, processing_class=tokenizer)
    if trainer.segment_table is not None:
        trainer.select_segments(store, config_of(SelectionConfig, args))
    left = set(range(len(names)))
    for columns in trainer.train_dataset.with_format(None):
        number = columns[_NUMBER_COLUMN]
        read = {name: columns[name] for name in ("input_ids", "labels", UNITS_COLUMN) if name in columns}
        batch = trainer.data_collator([read])
        length = len(columns["input_ids"])
        labels = batch["labels"][0, :length].numpy()
        weights = batch["loss_weights"][0, :length].numpy() if "loss_weights" in batch else np.float32(1)
        weights = np.where(labels == -100, np.float32(0), weights)
        if not weights.any():
            continue
        left.discard(number)
        yield LabeledRow(
            names[number],
            columns,
            None if trainer.segment_table is None else trainer.get_trace(number)[1],
            np.asarray(columns["input_ids"]),
            labels,
            weights,
            prepared_chat_template(trainer),
        )
    if left:
        refused.setdefault("no token of it is trained", []).extend(names[number] for number in sorted(left))


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """The smallest model that a trainer takes with this tokenizer: labels do not depend on the model."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=8, tie_word_embeddings=True, **sizes
    )
    return Qwen2ForCausalLM(config)


def labels_row(row: LabeledRow, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str | None]:
    """
    A row as TRL, Unsloth, Axolotl (empty `type`) and LLaMA-Factory (`tokenized_path`) read it.

    Args:
        row ([`LabeledRow`]):
            The row.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        `tuple[dict, str | None]`: The columns `input_ids`, `attention_mask` and `labels`, and no note.
    """
    return {**_tokens(row), "labels": row.labels.tolist()}, None


def weights_row(row: LabeledRow, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str | None]:
    """
    A row for trainers that weigh tokens (verl, Tinker).

    Args:
        row ([`LabeledRow`]):
            The row.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        `tuple[dict, str | None]`: The columns `input_ids`, `attention_mask` and `weights` (of the token at the same
        place, not of the next one), and no note.
    """
    return {**_tokens(row), "weights": row.weights.tolist()}, None


def _tokens(row):
    return {"input_ids": row.input_ids.tolist(), "attention_mask": [1] * len(row.input_ids)}


def axolotl_row(row: LabeledRow, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str | None]:
    """
    A row as Axolotl's `type: chat_template` reads it: the content of the last message in parts with `train`.

    Args:
        row ([`LabeledRow`]):
            The row, rendered by the chat template.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        `tuple[dict, str | None]`: The column `messages` (and `tools`, if the row has them), and what the other
        trainer's own settings must say, or do otherwise.

    Raises:
        [`RowRefusedError`]: If Axolotl would train other tokens of the row.
    """
    turn = _last_turn(row, tokenizer)
    context = [
        {"role": role, "content": [{"type": "text", "text": text}], "train": False} for role, text in turn.context
    ]
    parts = [{"type": "text", "text": text, "train": trained} for text, trained in turn.parts]
    labels = _labels_of_axolotl(turn, tokenizer, turn.kwargs)
    _check_labels(row, turn, labels, "Axolotl")
    record = {"messages": [*context, {"role": "assistant", "content": parts, "train": True}], **_tools(turn)}
    notes = []
    if turn.end < len(row.labels) and row.input_ids[turn.end] != tokenizer.eos_token_id:
        mark = tokenizer.convert_ids_to_tokens(int(row.input_ids[turn.end]))
        notes.append(f"the turn ends in {mark!r}, which Axolotl trains if its config has `eot_tokens: [{mark!r}]`")
    behind = row.labels[turn.end + 1 :]
    if (behind != -100).any():
        text = tokenizer.decode(behind[behind != -100])
        notes.append(f"{text!r} behind the end of the turn is trained by TRL and not by Axolotl")
    return record, "; ".join(notes) or None


def ms_swift_row(row: LabeledRow, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str | None]:
    """
    A row as ms-swift (4.2 or later) reads it: consecutive assistant messages with a `loss_scale` of 0 or 1.

    Args:
        row ([`LabeledRow`]):
            The row, rendered by the chat template.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        `tuple[dict, str | None]`: The column `messages` (and `tools`, if the row has them), and no note.

    Raises:
        [`RowRefusedError`]: If ms-swift would train other tokens of the row.
    """
    turn = _last_turn(row, tokenizer)
    _check_labels(row, turn, _labels_of_ms_swift(turn, tokenizer), "ms-swift")
    messages: list[dict[str, Any]] = [
        {"role": role, "content": text, **({"loss_scale": 0.0} if role == "assistant" else {})}
        for role, text in turn.context
    ]
    messages += [{"role": "assistant", "content": text, "loss_scale": float(trained)} for text, trained in turn.parts]
    return {"messages": messages, **_tools(turn)}, None


def _tools(turn):
    return {"tools": turn.kwargs["tools"]} if turn.kwargs else {}


@dataclass
class _LastTurn:
    """
    The last turn of a rendered row: where its content lies, in pieces that end where the labels change.

    Args:
        text (`str`):
            The rendered row.
        span (`tuple[int, int]`):
            Character span of the content in it.
        parts (`list[tuple[str, bool]]`):
            The content, and whether it is trained.
        end (`int`):
            Number of the first token behind the content, which ends the turn.
        context (`list[tuple[str, str]]`):
            Role and text of the messages in front.
        kwargs (`dict`):
            Arguments of the chat template that other trainers take with a row: `tools`, or none.
    """

    text: str
    span: tuple[int, int]
    parts: list[tuple[str, bool]]
    end: int
    context: list[tuple[str, str]]
    kwargs: dict[str, Any]

    @property
    def content(self) -> str:
        return "".join(text for text, _ in self.parts)


def _last_turn(row: LabeledRow, tokenizer) -> _LastTurn:
    columns = row.columns
    messages = columns.get("messages")
    if columns.get("prompt") is not None:
        conversational = not isinstance(columns["prompt"], str) and not isinstance(columns["completion"], str)
        messages = [*columns["prompt"], *columns["completion"]] if conversational else None
    if not messages or messages[-1].get("role") != "assistant":
        raise RowRefusedError("it is text or tokens, and not messages that end with the assistant's")
    kwargs = template_kwargs(columns)
    if set(kwargs) - {"tools"}:
        raise RowRefusedError(f"its chat template has arguments of its own ({', '.join(sorted(kwargs))})")
    # Messages do not depend on the column for plain text
    text, special = training_text(columns, tokenizer, row.chat_template, "")
    ids, spans = encode_with_spans(tokenizer, text, special)
    if not np.array_equal(ids, row.input_ids):
        raise RowRefusedError("its tokens are not those of its messages")
    start, end = _place_of_content(text, messages, row, tokenizer, kwargs)
    trained = row.labels != -100
    starts = spans[:, 0]
    first, behind = (int(place) for place in np.searchsorted(starts, (start, end)))
    if trained[:first].any():
        raise RowRefusedError("text in front of its last turn is trained")
    changes = first + 1 + np.flatnonzero(trained[first + 1 : behind] != trained[first : behind - 1])
    borders = [start, *starts[changes].tolist(), end]
    flags = trained[[first, *changes]].tolist()
    parts = [(text[a:b], flag) for (a, b), flag in zip(itertools.pairwise(borders), flags, strict=True)]
    context = [(str(message["role"]), message_text(message)) for message in messages[:-1]]
    return _LastTurn(text, (start, end), parts, behind, context, kwargs)


def _place_of_content(text, messages, row, tokenizer, kwargs) -> tuple[int, int]:
    """Where the content of the last message lies in a rendered row, a reasoning in a field of its own included."""
    response = message_text(messages[-1])
    content = row.trace.completion if row.trace is not None else response
    for part in filter(None, (content, content.strip())):
        place = last_place(text, part)
        if place >= 0:
            return place, place + len(part)
    response = response.strip()
    place = last_place(text, response) if response else -1
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True, chat_template=row.chat_template, **kwargs
    )
    if not len(prompt) < place or not text.startswith(prompt):
        raise RowRefusedError("the chat template rewrites the content of its last message")
    return len(prompt), place + len(response)


def _check_labels(row: LabeledRow, turn: _LastTurn, labels: np.ndarray | None, trainer: str) -> None:
    """That another trainer trains the same tokens. What the template writes behind the end of the turn is its own."""
    if labels is None:
        raise RowRefusedError(f"{trainer} would read other tokens out of its text")
    upto = min(turn.end + 1, len(row.labels))
    if not np.array_equal(labels[:upto], row.labels[:upto]):
        raise RowRefusedError(f"{trainer} would train other tokens of it")


def _labels_of_axolotl(turn: _LastTurn, tokenizer, kwargs) -> np.ndarray | None:
    """
    Labels that Axolotl makes of a row, up to the end of the last turn; `None` if it has other tokens.

    It finds the turn by comparing the rendered row with one whose last content is a dummy. Then it tokenizes the
    content alone, widens each part to the tokens that it touches, and carries the labels over by position.
    """
    content = turn.content

    def render(last):
        turns = [{"role": role, "content": text} for role, text in [*turn.context, ("assistant", last)]]
        text = tokenizer.apply_chat_template(turns, tokenize=False, **kwargs)
        return text, tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    text, ids = render(content)
    if text != turn.text:
        return None
    dummy = render("[[dummy_message]]")[1]
    shorter = min(len(ids), len(dummy))
    first = next((i for i in range(shorter) if ids[i] != dummy[i]), None)
    behind = next((len(ids) - i for i in range(shorter) if ids[-1 - i] != dummy[-1 - i]), None)
    if first is None or behind is None or behind <= first:
        return None
    alone = tokenizer(content, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    starts = [start for start, _ in alone]
    ends = [start - 1 for start in starts[1:]] + [len(content) - 1]
    labels = np.full(len(ids), -100)
    begin = 0
    for part, trained in turn.parts:
        low, high = begin, begin + len(part) - 1
        begin += len(part)
        a = bisect.bisect_left(starts, low)
        if a > 0 and ends[a - 1] > low:
            a -= 1
        b = bisect.bisect_right(ends, high) - 1
        if b < len(starts) - 1 and starts[b + 1] < high:
            b += 1
        if trained and a <= b:
            # Every token that lies wholly in the part as it was widened
            places = first + np.arange(bisect.bisect_left(starts, starts[a]), bisect.bisect_right(ends, ends[b]))
            places = places[places < len(ids)]
            labels[places] = np.asarray(ids)[places]
    # Its `train_on_eos` and `train_on_eot` are "turn" by default
    end = next((i for i in range(behind, min(behind + 4, len(ids))) if i == turn.end), None)
    if end is not None:
        labels[end] = ids[end]
    return labels


def _labels_of_ms_swift(turn: _LastTurn, tokenizer) -> np.ndarray | None:
    """
    Labels that ms-swift makes of a row, up to the end of the last turn; `None` if it has other tokens.

    Neighbors of one `loss_scale` are joined and the others tokenized one by one. A piece without loss that begins like
    the end of a turn has this beginning trained.
    """
    start, end = turn.span
    pieces = [(turn.text[:start], False), *turn.parts, (turn.text[end:], True)]
    ids: list[int] = []
    labels: list[int] = []
    suffix = tokenizer(turn.text[end:], add_special_tokens=False, verbose=False)["input_ids"]
    for trained, group in itertools.groupby(pieces, key=lambda piece: piece[1]):
        text = "".join(text for text, _ in group)
        piece = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids += piece
        resumed = 0 if trained or not suffix or not any(label != -100 for label in labels[-1:]) else len(suffix)
        resumed = resumed if piece[:resumed] == suffix else 0
        labels += piece if trained else piece[:resumed] + [-100] * (len(piece) - resumed)
    whole = tokenizer(turn.text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(labels) if ids == whole else None
