"""The collator that masks dropped segments, and the table it looks them up in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..attribution.store import AttributionStore
from ..selection import SelectionConfig, draw_segments, select_segments, unit_mask
from .preparation import EVAL_UNITS_COLUMN, UNITS_COLUMN


@dataclass
class SelectionSummary:
    """
    What a selection keeps of a training set.

    Args:
        traces (`int`):
            Traces in the set.
        segments (`int`):
            Segments of the traces that were selected from.
        kept_segments (`int`):
            Kept ones among them.
        tokens (`int`):
            Their tokens, with the attribution model's tokenizer.
        kept_tokens (`int`):
            Tokens of the kept segments.
        skipped (`dict[str, list[str]]`):
            Names of the traces that are trained in full, by reason.
    """

    traces: int = 0
    segments: int = 0
    kept_segments: int = 0
    tokens: int = 0
    kept_tokens: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self):
        skipped = sum(map(len, self.skipped.values()))
        lines = [
            f"Segment selection over {self.traces} traces:",
            f"  segments kept     {self.kept_segments:>9,} of {self.segments:,} "
            f"({self.kept_segments / max(self.segments, 1):.1%})",
            f"  reasoning tokens  {self.kept_tokens:>9,} of {self.tokens:,} "
            f"({self.kept_tokens / max(self.tokens, 1):.1%})",
            f"  trained in full   {skipped:>9,} traces",
        ]
        for reason, names in self.skipped.items():
            lines.append(f"    {len(names)} x {reason}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
        return "\n".join(lines)


class ArrowStrings(Sequence):
    """
    Strings (or `None`) in Arrow memory, which may be a mapped file: a million of them are no Python objects.

    Args:
        strings (`Sequence[str | None]`, `pyarrow.Array` or `pyarrow.ChunkedArray`):
            The strings.
    """

    def __init__(self, strings: "Sequence[str | None] | pa.Array | pa.ChunkedArray"):
        if isinstance(strings, ArrowStrings):
            strings = strings.column
        elif not isinstance(strings, (pa.Array, pa.ChunkedArray)):
            strings = pa.array(strings, type=pa.string())
        chunks = strings.chunks if isinstance(strings, pa.ChunkedArray) else [strings]
        self.column = pa.chunked_array([chunk.cast(pa.string()) for chunk in chunks], type=pa.string())

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int) -> str | None:
        return self.column[int(index)].as_py()

    def __iter__(self) -> Iterator[str | None]:
        for batch in pa.table([self.column], names=["string"]).to_batches(max_chunksize=8192):
            yield from batch.column(0).to_pylist()

    def __add__(self, other: "ArrowStrings") -> "ArrowStrings":
        return ArrowStrings(pa.chunked_array(self.column.chunks + other.column.chunks, type=pa.string()))


class SegmentTable:
    """
    Which units of a training set are trained, in memory that dataloader workers share.

    Tokens carry the number of their unit (a segment's opening word, or the rest of it; 0 outside the reasoning), and
    the table says whether it is trained. It can be filled at any time; batches made afterwards follow it. It has two
    bytes a segment.

    Args:
        keys (`Sequence[str]`, `pyarrow.Array` or `pyarrow.ChunkedArray`):
            Key of each trace of the training set.
        names (`Sequence[str]`, `pyarrow.Array` or `pyarrow.ChunkedArray`):
            What each is called in messages.
        num_segments (`np.ndarray`):
            Number of segments of each trace, 0 for one that cannot be attributed, shape (traces,).
        problems (`Sequence[str | None]`, `pyarrow.Array` or `pyarrow.ChunkedArray`):
            Why it cannot.
    """

    def __init__(
        self, keys: Sequence[str], names: Sequence[str], num_segments: np.ndarray, problems: Sequence[str | None]
    ):
        self.keys, self.names, self.problems = (ArrowStrings(strings) for strings in (keys, names, problems))
        self.num_segments = np.asarray(num_segments, dtype=np.int64)
        # What to add to the units of a trace, which count from 1, to make them unique
        self.offsets = 2 * (np.cumsum(self.num_segments) - self.num_segments)
        self.trained = torch.ones(1 + 2 * int(self.num_segments.sum()), dtype=torch.bool).share_memory_()

    def extend(self, other: "SegmentTable") -> np.ndarray:
        """
        Append the traces of another set, before any batch is made.

        Args:
            other ([`SegmentTable`]):
                Its table, not filled yet.

        Returns:
            `np.ndarray`: Offsets of its traces in this table.
        """
        first = len(self.keys)
        self.__init__(
            self.keys + other.keys,
            self.names + other.names,
            np.concatenate([self.num_segments, other.num_segments]),
            self.problems + other.problems,
        )
        return self.offsets[first:]

    def fill(self, store: AttributionStore, config: SelectionConfig, seed: int = 0) -> SelectionSummary:
        """
        Select segments by stored attributions.

        Args:
            store ([`AttributionStore`]):
                Holds every trace of the set.
            config ([`SelectionConfig`]):
                Thresholds.
            seed (`int`, *optional*, defaults to `0`):
                Seed of `selection="random"`.

        Returns:
            [`SelectionSummary`]: What is kept, and which traces are trained in full and why.

        Raises:
            `ValueError`: If the store lacks a trace.
        """
        missing = [number for number, key in enumerate(self.keys) if key not in store]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.keys)} traces have no attribution in {str(store.path)!r}: "
                f"{', '.join(self.names[number] for number in missing[:5])}{', ...' if len(missing) > 5 else ''}. "
                "Attributions belong to a trace's "
                "exact prompt, reasoning, answer and segments; the store was made with segmenter "
                f"{store.settings.get('segmenter')!r}. Run `trl-segment attribute` on this dataset with the same "
                "segmenter and columns (only the missing traces cost time), or leave `attributions` out to compute "
                "them when training begins."
            )
        summary = SelectionSummary(traces=len(self.keys))
        trained = np.ones(len(self.trained), dtype=bool)
        for key, name, offset, problem in zip(self.keys, self.names, self.offsets, self.problems, strict=True):
            row = store[key]
            problem = problem or row.problem
            if problem is not None:
                summary.skipped.setdefault(problem, []).append(name)
                continue
            kept = select_segments(row.num_tokens, row.sum_abs, row.sum_signed, config)
            if config.selection == "random":
                kept = draw_segments(kept, config, seed=[seed, int(key, 16)])
            elif config.selection == "all":
                kept[:] = True
            units = unit_mask(kept, config.transition)
            trained[1 + offset : 1 + offset + len(units)] = units
            tokens = np.asarray(row.num_tokens)
            summary.segments += len(kept)
            summary.kept_segments += int(kept.sum())
            summary.tokens += int(tokens.sum())
            summary.kept_tokens += int(tokens[kept].sum())
        self.trained.copy_(torch.from_numpy(trained))
        return summary


@dataclass
class DataCollatorForSegmentSelectiveLM:
    """
    Data collator that sets the labels of dropped segments to -100 and leaves the rest to another collator.

    The labels are masked before the batch is laid out, so padding, packing and padding-free batches all follow. Labels
    that are already -100 stay so: masks are intersected.

    Args:
        collator (`Callable`):
            Collator that makes the batch, usually [`~trl.trainer.sft_trainer.DataCollatorForLanguageModeling`]. It
            must use the `labels` of the examples.
        trained (`torch.Tensor`):
            Table of units, bool, shape (1 + units,): whether a unit is trained. Read at every call.
        weights (`tuple[float, float]`, *optional*):
            Loss weights of kept and of dropped segments. If given, labels are left as they are and the batch has one
            more entry: `loss_weights`, float32, of the labels' shape.

        evaluated (`torch.Tensor`, *optional*):
            Table of the units of evaluation sets (column `eval_segment_units`).

    Returns (when called):
        `dict[str, torch.Tensor]`: The batch, with one more entry if the examples have units: `segment_counts`, int64,
        shape (1, 4): trained tokens, tokens that SFT would train, trained segments, segments. For examples of an
        evaluation set with units instead `kept_tokens`, float32, of the labels' shape: 0 in dropped segments, else 1.

    Examples:
    ```python
    >>> collator = DataCollatorForSegmentSelectiveLM(
    ...     DataCollatorForLanguageModeling(pad_token_id=0), torch.tensor([True, True, True, False, False])
    ... )
    >>> collator([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "segment_units": [0, 2, 4]}])["labels"]
    tensor([[-100,    6, -100]])
    ```
    """

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    trained: torch.Tensor
    weights: tuple[float, float] | None = None
    evaluated: torch.Tensor | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if EVAL_UNITS_COLUMN in examples[0]:
            units = [example[EVAL_UNITS_COLUMN] for example in examples]
            rows = [{k: v for k, v in example.items() if k != EVAL_UNITS_COLUMN} for example in examples]
            return {**self.collator(rows), "kept_tokens": self._lay_out(rows, units, self.evaluated, (1.0, 0.0))}
        if UNITS_COLUMN not in examples[0]:  # evaluation: the loss of the full completion, so that runs compare
            return self.collator(examples)
        masked, counts = [], np.zeros(4, dtype=np.int64)
        table = self.trained.numpy()
        for example in examples:
            units = np.asarray(example[UNITS_COLUMN])
            labels = np.asarray(example["labels"])
            selected = np.where(table[units], labels, -100)
            kept_labels = selected if self.weights is None else labels
            example = {key: value for key, value in example.items() if key != UNITS_COLUMN}
            masked.append({**example, "labels": kept_labels.tolist()})
            # The rest of segment i is unit 2 * i + 2, so even numbers count each segment once
            bodies = np.unique(units[(units > 0) & (units % 2 == 0)])
            counts += [(selected != -100).sum(), (labels != -100).sum(), table[bodies].sum(), len(bodies)]
        batch = {**self.collator(masked), "segment_counts": torch.from_numpy(counts)[None]}
        if self.weights is not None:
            units = [example[UNITS_COLUMN] for example in examples]
            batch["loss_weights"] = self._lay_out(masked, units, self.trained, self.weights)
        return batch

    def _lay_out(self, rows, units, table, weights):
        """Weights of the tokens, float32, laid out like the labels by whatever collator is inside: in their place."""
        in_place = [{**row, "labels": list(numbers)} for row, numbers in zip(rows, units, strict=True)]
        laid_out = self.collator(in_place)["labels"].clamp(min=0)
        kept, dropped = weights
        return torch.where(laid_out > 0, torch.where(table[laid_out], kept, dropped), 1.0).float()
