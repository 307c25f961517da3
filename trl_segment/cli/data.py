"""Read the dataset and the store that a command line names."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..store import AttributionStore, StoredAttribution, open_store
from ..store.rows import check_segments
from ..traces import (
    Trace,
    TraceConfig,
    build_trace,
    describe_segmenter,
    load_segmenter,
    message_text,
    naming_errors,
    row_name,
)
from .arguments import DatasetArguments
from .errors import UserError
from .output import count, reasons, say


if TYPE_CHECKING:
    from datasets import DatasetDict


_FILE_TYPES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def spread_evenly(most: int, rows: int) -> list[int]:
    """
    Some rows of a dataset, from the first to the last.

    Args:
        most (`int`):
            Number of rows to take, if there are as many.
        rows (`int`):
            Number of rows that there are.

    Returns:
        `list[int]`: Their numbers, in order.
    """
    return np.unique(np.linspace(0, rows - 1, min(most, rows)).round().astype(int)).tolist()


def load_splits(
    name: str | None, config: str | None = None, split: str = "train", streaming: bool = False
) -> "DatasetDict":
    """
    Load a dataset.

    Args:
        name (`str` or `None`):
            Hub name, folder, or file (`.jsonl`, `.json`, `.csv`, `.parquet`).
        config (`str`, *optional*):
            Configuration of a Hub dataset.
        split (`str`, *optional*, defaults to `"train"`):
            Name for the only split of a file.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows as they come.

    Returns:
        [`~datasets.DatasetDict`]: Its splits.

    Raises:
        `UserError`: If no dataset is named, or its files cannot be read.
    """
    if not name:
        raise UserError("--dataset_name is required: a Hub name, a folder or a file")
    # Slow to import, and not needed where no dataset is named
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        if Path(name).is_file() and Path(name).suffix in _FILE_TYPES:
            kind = _FILE_TYPES[Path(name).suffix]
            return DatasetDict({split: load_dataset(kind, data_files=name, split="train", streaming=streaming)})
        return load_dataset(name, name=config, streaming=streaming)
    except DatasetGenerationError as error:
        raise UserError(f"{name!r} cannot be read: {error.__cause__ or error}") from error


def load_train_split(args: DatasetArguments, streaming: bool = False):
    """
    Load the split that a command reads.

    Args:
        args ([`DatasetArguments`]):
            Names the dataset.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read rows as they come.

    Returns:
        [`~datasets.Dataset`]: The split.

    Raises:
        `UserError`: If the dataset has no such split, or it is empty.
    """
    split = args.dataset_train_split
    splits = load_splits(args.dataset_name, args.dataset_config, split, streaming)
    if split not in splits:
        raise UserError(
            f"{args.dataset_name!r} has no split {split!r}, only {', '.join(splits)}. Set --dataset_train_split."
        )
    if not streaming and len(splits[split]) == 0:
        raise UserError(f"The split {split!r} of {args.dataset_name!r} is empty.")
    return splits[split]


def trace_reader(config: TraceConfig, text_column: str) -> Callable[[Mapping[str, Any], str], Trace]:
    """
    A function that reads rows. A segmenter of the user's is loaded once and not for each row.

    Args:
        config ([`~trl_segment.TraceConfig`]):
            How rows are read.
        text_column (`str`):
            Column of the language-modeling format.

    Returns:
        `Callable`: Takes a row and its name, which errors then tell, and returns its [`~trl_segment.Trace`].
    """
    segmenter = load_segmenter(config.segmenter) if ":" in config.segmenter else None

    def read(row: Mapping[str, Any], name: str) -> Trace:
        with naming_errors(name):
            return build_trace(row, config, segmenter, text_column=text_column)

    return read


# Rows of which one must have marks of reasoning or a statement of its answer, before a model is loaded
_LOOKED_AT = 1000
# Characters of each end that are shown of a text
_SHOWN = 80


class Readings:
    """
    In which ways rows are read.

    Attributes:
        first (`tuple[str, Trace]` or `None`):
            Name and trace of the first row that can be attributed.
    """

    def __init__(self):
        self.first: tuple[str, Trace] | None = None
        self._counts: Counter[str] = Counter()
        self._attributable = self._without_response = 0

    def watch(self, traces: Iterable[tuple[str, Trace]]) -> Iterator[tuple[str, Trace]]:
        """
        Count traces as they pass.

        Args:
            traces (`Iterable[tuple[str, Trace]]`):
                Names and traces.

        Yields:
            `tuple[str, Trace]`: Each of them.
        """
        for name, trace in traces:
            self._counts[trace.reading] += 1
            if trace.problem is None:
                self.first = self.first or (name, trace)
                self._attributable += 1
                self._without_response += trace.response_inside
            yield name, trace

    def say(self) -> None:
        """Print how many rows are read in each way, and one of them."""
        say("Rows by the way they are read:")
        say(*(f"  {number:,} x {reading}" for reading, number in self._counts.most_common()))
        if self.first is None:
            return
        name, trace = self.first
        prompt = trace.prompt if isinstance(trace.prompt, str) else "\n".join(map(message_text, trace.prompt))
        start, end = trace.reasoning
        texts = {
            "prompt": prompt,
            "reasoning": trace.completion[start:end],
            "response": trace.completion[trace.response :],
            "answer": trace.answer or "",
        }
        say(f"{name} as it is read, the ends of each text:")
        say(*(f"  {label:<10} {_ends(text)}" for label, text in texts.items()))
        say(f"  {'segments':<10} {len(trace.segments)}")

    def check(self) -> None:
        """
        Refuse a dataset in which nothing says where any reasoning ends.

        Raises:
            `UserError`: If the response lies inside of what would be taken for the reasoning in every row.
        """
        if self._attributable and self._without_response == self._attributable:
            raise UserError(
                f"none of {count(self._attributable, 'row')} has marks of reasoning such as <think> or a last "
                "paragraph that states the answer, so the response would lie inside the reasoning. Set "
                "--reasoning_end (and --reasoning_start) to the marks of this dataset, or --reasoning_column and "
                "--response_column where they stand in columns of their own. Where the rows are reasoning alone, set "
                "--reasoning_start ''"
            )


def check_readings(rows: Iterable[Mapping[str, Any]], read: Callable[[Mapping[str, Any], str], Trace]) -> None:
    """
    Look at the first rows of a dataset before a model is loaded for it.

    Args:
        rows (`Iterable[Mapping]`):
            The dataset.
        read (`Callable`):
            See [`trace_reader`].

    Raises:
        `UserError`: See [`Readings.check`].
    """
    readings = Readings()
    looked_at = enumerate(itertools.islice(rows, _LOOKED_AT))
    # One row with marks is enough
    for _, trace in readings.watch((name, read(row, name)) for name, row in _named(looked_at)):
        if trace.problem is None and not trace.response_inside:
            return
    readings.check()


def _named(numbered):
    return ((row_name(row, index), row) for index, row in numbered)


def _ends(text: str) -> str:
    """The first and the last characters of a text, in one line."""
    text = " ".join(text.split()) if len(text) <= 2 * _SHOWN else text
    if len(text) <= 2 * _SHOWN:
        return text
    return " ... ".join(" ".join(part.split()) for part in (text[:_SHOWN], text[-_SHOWN:]))


def roles_of(row: Mapping[str, Any], column: str = "roles") -> list[str] | None:
    """
    Known roles of a row's segments.

    Args:
        row (`Mapping`):
            Row of a dataset.
        column (`str`, *optional*, defaults to `"roles"`):
            Column with one role per segment.

    Returns:
        `list[str]` or `None`: The roles; `None` if the row has no list there.
    """
    roles = row.get(column)
    return [str(role) for role in roles] if isinstance(roles, (list, tuple)) else None


class FoundRow(NamedTuple):
    """
    A row of a dataset beside its scores in a store.

    Args:
        name (`str`):
            Name of the row.
        row (`dict`):
            The row.
        trace ([`~trl_segment.Trace`]):
            Its trace.
        stored ([`~trl_segment.store.StoredAttribution`] or `None`):
            Its scores, if the store holds any.
    """

    name: str
    row: dict[str, Any]
    trace: Trace
    stored: StoredAttribution | None


class StoreReader:
    """
    A store, and the rows of the dataset that it was made of.

    Args:
        name (`str`):
            Folder of the store, or a dataset on the Hub.
        text_column (`str`):
            Column of the language-modeling format.
        segmenter (`str`, *optional*):
            The function that cut its segments, as `"FILE.py:FUNCTION"`.
        store ([`~trl_segment.AttributionStore`], *optional*):
            The store, if it is open already.

    Attributes:
        left_out (`dict[str, list[str]]`):
            Names of the rows that [`~StoreReader.attributed`] has passed over, by reason.

    Raises:
        `ValueError`: If the segments were cut by a function and none is given, or the other way round.
    """

    def __init__(
        self, name: str, text_column: str, segmenter: str | None = None, store: AttributionStore | None = None
    ):
        self.name = name
        self.store = open_store(name) if store is None else store
        self.config = self.store.settings.trace_config(segmenter)
        self.left_out: dict[str, list[str]] = {}
        self._read = trace_reader(self.config, text_column)
        source = self.store.settings.segmenter_source
        if segmenter is not None and source is not None and describe_segmenter(segmenter)[1] not in (None, source):
            say(
                f"The file of {segmenter} has changed since the store at {name!r} was made. Traces that it cuts "
                "differently are not found."
            )

    def find(self, name: str, row: Mapping[str, Any]) -> FoundRow:
        """
        Find a row in the store.

        Args:
            name (`str`):
                Name of the row.
            row (`Mapping`):
                The row.

        Returns:
            [`FoundRow`]: The row, its trace and its stored scores.
        """
        trace = self._read(row, name)
        stored = self.store.get(trace.key)
        if stored is not None and stored.problem is None and trace.problem is None:
            check_segments(len(stored.num_tokens), len(trace.segments), name)
        return FoundRow(name, row, trace, stored)

    def all(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[FoundRow]:
        """
        Find rows in the store.

        Args:
            rows (`Iterable[Mapping]`):
                Rows of the dataset from the first on, which are named by their number if they have no `id`.

        Yields:
            [`FoundRow`]: Each row.
        """
        for index, row in enumerate(rows):
            yield self.find(row_name(row, index), row)

    def attributed(self, found: Iterable[FoundRow]) -> Iterator[FoundRow]:
        """
        Pass over rows without scores, and keep their names.

        Args:
            found (`Iterable[FoundRow]`):
                Rows.

        Yields:
            [`FoundRow`]: Each row that has scores.
        """
        for row in found:
            problem = "not in the store" if row.stored is None else row.stored.problem
            if problem is None:
                yield row
            else:
                self.leave_out(row, problem)

    def leave_out(self, row: FoundRow, reason: str) -> None:
        """
        Count a row as passed over.

        Args:
            row ([`FoundRow`]):
                The row.
            reason (`str`):
                Why.
        """
        self.left_out.setdefault(reason, []).append(row.name)

    def say_left_out(self) -> None:
        """Print how many rows were passed over, and why."""
        if self.left_out:
            say(f"Rows left out of {self.name}:", *reasons(self.left_out))
