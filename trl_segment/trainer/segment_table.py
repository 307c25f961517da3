"""Which segments of a training set are trained: one table in memory that dataloader workers share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..selection import ReliabilityCount, SelectionConfig, near_threshold, select, unit_mask
from ..store import StoredAttribution
from ..store.rows import check_segments


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
        near_threshold (`int`):
            Segments that a small change of scores or thresholds would decide otherwise.
        reliability ([`~trl_segment.selection.ReliabilityCount`]):
            How far the scores can be trusted.
        reached_tokens (`int`):
            Reasoning tokens that `max_length` leaves, with the trained model's tokenizer; 0 where it cuts no trace.
        trained_tokens (`int`):
            Tokens of kept segments among these: what is trained.
    """

    traces: int = 0
    segments: int = 0
    kept_segments: int = 0
    tokens: int = 0
    kept_tokens: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    near_threshold: int = 0
    reliability: ReliabilityCount = field(default_factory=ReliabilityCount, compare=False)
    reached_tokens: int = 0
    trained_tokens: int = 0

    def __str__(self):
        skipped = sum(map(len, self.skipped.values()))
        lines = [
            f"Segment selection over {self.traces} traces:",
            f"  segments kept     {self.kept_segments:>9,} of {self.segments:,} "
            f"({self.kept_segments / max(self.segments, 1):.1%})",
            f"  reasoning tokens  {self.kept_tokens:>9,} of {self.tokens:,} "
            f"({self.kept_tokens / max(self.tokens, 1):.1%})",
            *self._within_max_length(),
            f"  near a threshold  {self.near_threshold:>9,} segments "
            f"({self.near_threshold / max(self.segments, 1):.1%})",
            f"  trained in full   {skipped:>9,} traces",
        ]
        for reason, names in self.skipped.items():
            lines.append(f"    {len(names)} x {reason}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
        if self.reliability.traces:
            lines.append(f"  attributions settled for {self.reliability.describe()}")
        unread = len(self.reliability.unread)
        if unread:
            total = unread + self.reliability.read
            lines.append(f"  the reasoning does not raise the answer in {unread:,} of {total:,} traces")
        return "\n".join(lines)

    def _within_max_length(self) -> list[str]:
        if not self.reached_tokens:
            return []
        share = self.trained_tokens / self.reached_tokens
        return [f"  within max_length {self.trained_tokens:>9,} of {self.reached_tokens:,} ({share:.1%})"]


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

    def leave_out(self, rows: Mapping[int, str]) -> None:
        """
        Train rows in full whose segments have no place among their tokens.

        Args:
            rows (`Mapping[int, str]`):
                Why, by row number.
        """
        problems = list(self.problems)
        for number, reason in rows.items():
            problems[number] = problems[number] or reason
        self.problems = ArrowStrings(problems)

    def missing(self, store: Mapping[str, StoredAttribution]) -> list[int]:
        """
        Traces that a store lacks.

        Args:
            store (`Mapping[str, StoredAttribution]`):
                Stored attributions by key.

        Returns:
            `list[int]`: Their row numbers. Traces that are trained in full whatever their scores are not among them.
        """
        rows = enumerate(zip(self.keys, self.problems, strict=True))
        return [number for number, (key, problem) in rows if problem is None and key not in store]

    def fill(self, store: Mapping[str, StoredAttribution], config: SelectionConfig) -> SelectionSummary:
        """
        Select segments by stored attributions.

        Args:
            store (`Mapping[str, StoredAttribution]`):
                Holds every trace of the set that can be attributed, by key.
            config ([`~trl_segment.SelectionConfig`]):
                Thresholds.

        Returns:
            [`SelectionSummary`]: What is kept, and which traces are trained in full and why.

        Raises:
            `ValueError`: If the store lacks a trace, or has numbers for more or fewer segments than one has.
        """
        missing = self.missing(store)
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.keys)} traces have no attribution in {_place_of(store)}: "
                f"{', '.join(self.names[number] for number in missing[:5])}{', ...' if len(missing) > 5 else ''}. "
                "Attributions belong to a trace's exact prompt, reasoning, answer and segments. Run `trl-segment "
                "attribute` on this dataset with the segmenter and the columns of this run (only the missing traces "
                "cost time), or leave `attributions` out to have them made when training begins."
            )
        summary = SelectionSummary(traces=len(self.keys))
        trained = np.ones(len(self.trained), dtype=bool)
        columns = (self.keys, self.names, self.num_segments, self.offsets, self.problems)
        for key, name, num_segments, offset, problem in zip(*columns, strict=True):
            if problem is None:
                row = store[key]
                problem = row.problem
            if problem is not None:
                summary.skipped.setdefault(problem, []).append(name)
                continue
            check_segments(len(row.num_tokens), int(num_segments), name)
            scores = row.segment_scores
            kept = select(scores, config, key).kept
            summary.reliability.add(name, row.reliability, row.gain)
            summary.near_threshold += int(near_threshold(scores, config).sum())
            units = unit_mask(kept, config.transition)
            trained[1 + offset : 1 + offset + len(units)] = units
            tokens = np.asarray(row.num_tokens)
            summary.segments += len(kept)
            summary.kept_segments += int(kept.sum())
            summary.tokens += int(tokens.sum())
            summary.kept_tokens += int(tokens[kept].sum())
        self.trained.copy_(torch.from_numpy(trained))
        return summary

    def count_tokens(self, units: pa.ChunkedArray) -> tuple[int, int]:
        """
        Count the reasoning tokens of rows, as they are trained.

        Args:
            units (`pyarrow.ChunkedArray`):
                Units of the tokens of each row, a list a row.

        Returns:
            `tuple[int, int]`: Tokens of kept segments, and of all.
        """
        trained, kept, total = self.trained.numpy(), 0, 0
        for chunk in units.chunks:
            numbers = pc.list_flatten(chunk).to_numpy(zero_copy_only=False)
            numbers = numbers[numbers > 0]
            kept, total = kept + int(trained[numbers].sum()), total + len(numbers)
        return kept, total


def _place_of(store) -> str:
    settings = getattr(store, "settings", None)
    cut = "" if settings is None else f" (segmenter {settings.custom_segmenter or settings.segmenter!r})"
    return f"the store at {str(getattr(store, 'path', '?'))!r}{cut}"
