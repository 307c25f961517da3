"""
Stored attributions: a folder with `settings.json` (what made them) and files with one row per trace.

What is stored are the few numbers per segment that every selection rule needs, so thresholds can change for free.

Every process that writes has a journal of its own (`journal-*.jsonl`), which holds a trace as soon as it is
attributed. [`~AttributionStore.compact`] moves the rows of finished journals into Arrow files
(`part-GENERATION-SHA256.arrow`): sorted by key, so that they do not depend on who wrote what when, memory-mapped, so
that a million traces need no memory, and named by their checksum, so that damage is found. Of two rows of a trace a
journal's is newer than a part's, and a later generation's newer than an earlier one's.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers.utils import logging

from .journal import Journal, JournalReader, lock
from .key_index import KeyIndex


logger = logging.get_logger(__name__)

_PART = re.compile(r"part-(\d{4})-([0-9a-f]{32})\.arrow")
# A store has at most this many parts, or parts of this many rows: what one damaged file costs, and open files
_MOST_PARTS, _LEAST_ROWS = 64, 256
# A place is a source's number and, in the lower bits, a row or a position in its file
_POSITION_BITS = 44


_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("problem", pa.string()),
        ("num_tokens", pa.list_(pa.int32())),
        ("sum_abs", pa.list_(pa.float64())),
        ("sum_signed", pa.list_(pa.float64())),
        ("sequence_tokens", pa.int32()),
        ("f_input", pa.float64()),
        ("f_baseline", pa.float64()),
        ("completeness_gap", pa.float64()),
        ("defect", pa.float64()),
        ("evaluations", pa.int32()),
        ("stopped_by", pa.string()),
    ]
)


@dataclass
class StoredAttribution:
    """
    One trace's row.

    Args:
        key (`str`):
            [`~trl_segment.traces.Trace`]'s key.
        name (`str`):
            What the dataset calls it: its `id` column or its row number.
        problem (`str`, *optional*):
            Why it was not attributed. Such a trace is trained in full, and the numbers below are empty.
        num_tokens (`list[int]`):
            Tokens per segment, with the attribution model's tokenizer.
        sum_abs (`list[float]`):
            Sum of absolute token attributions per segment, in nats.
        sum_signed (`list[float]`):
            Sum of signed token attributions per segment, in nats.
        sequence_tokens (`int`):
            Tokens of the attributed sequence.
        f_input (`float`):
            Log-probability of the answer, in nats.
        f_baseline (`float`):
            The same at the baseline.
        completeness_gap (`float`):
            Sum of all token attributions minus (`f_input - f_baseline`).
        defect (`float`):
            Quadrature error in nats, as far as completeness shows it.
        evaluations (`int`):
            Gradient evaluations spent.
        stopped_by (`str`):
            Why the rule spent no more.
    """

    key: str
    name: str
    problem: str | None = None
    num_tokens: list[int] = field(default_factory=list)
    sum_abs: list[float] = field(default_factory=list)
    sum_signed: list[float] = field(default_factory=list)
    sequence_tokens: int = 0
    f_input: float | None = None
    f_baseline: float | None = None
    completeness_gap: float | None = None
    defect: float | None = None
    evaluations: int = 0
    stopped_by: str | None = None


class AttributionStore(Mapping):
    """
    The attributions in a folder, by trace key. A row is on disk as soon as it is added.

    Several processes may have a folder open and add to it. Each sees what was there when it opened it, and what it
    added itself.

    Args:
        path (`str` or `os.PathLike`):
            Folder of the store.
        settings (`dict`, *optional*):
            Everything that changes the scores: model, tokenizer, rule, baseline, segmenter. To write, it must be
            given; an existing store with other settings is refused. `None` opens an existing store for reading.

    Raises:
        `FileNotFoundError`: If there is no store to read.
        `ValueError`: If the store was made with other settings, or its settings cannot be read.
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, Any] | None = None):
        self.path = Path(path)
        self._writable = settings is not None
        # Through JSON and back, so that a reopened store compares equal
        settings = json.loads(json.dumps(settings))
        settings_file = self.path / "settings.json"
        if settings is None and not settings_file.exists():
            raise FileNotFoundError(
                f"There is no attribution store at {str(self.path)!r} (no settings.json in it). Make one with "
                "`trl-segment attribute --model_name_or_path ... --dataset_name ... --attributions PATH`."
            )
        if settings is not None and not settings_file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            # Of two runs that begin at once with other settings one finds those of the other
            _write_atomically(settings_file, json.dumps(settings, indent=2).encode(), replace=False)
        try:
            self.settings = json.loads(settings_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{str(settings_file)!r} is damaged ({error}), so nobody knows what made the scores beside it. Put a "
                "copy of it back, or delete the folder."
            ) from error
        if settings is not None:
            self._check_settings(settings)
        content = json.dumps(self.settings, sort_keys=True).encode()
        self._fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self._journal: Journal | None = None
        self._load()
        for source in self._sources:
            if source.problem:
                logger.warning(
                    f"{source.path.name} of the attribution store at {str(self.path)!r} {source.problem}. What is "
                    "missing is attributed again; everything else in it is good."
                )

    def _check_settings(self, settings):
        differences = describe_differences(self.settings, settings, "stored", "now")
        if differences:
            raise ValueError(
                f"The attribution store at {str(self.path)!r} was made with other settings, and scores of different "
                f"settings must not mix:\n{differences}\nChoose another folder with `attributions`, delete this one, "
                "or go back to its settings."
            )

    def __getitem__(self, key: str) -> StoredAttribution:
        place = self._index.get(key)
        if place is None:
            raise KeyError(key)
        return self._read(place)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._index

    def __iter__(self) -> Iterator[str]:
        for number, source in enumerate(self._sources):
            for position, key in source.entries():
                if self._index.get(key) == _place(number, position):
                    yield key

    def __len__(self) -> int:
        return len(self._index)

    def add(self, row: StoredAttribution) -> None:
        """
        Add a trace's attribution, on disk when this returns.

        Args:
            row ([`StoredAttribution`]):
                Replaces what was stored under its key.

        Raises:
            `OSError`: If it cannot be written. What was there before is intact, and adding can be tried again.
        """
        try:
            if self._journal is None:
                # In order of time, so that a later journal's row replaces an earlier one's
                name = f"journal-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
                self._journal = Journal(self.path / name, {"settings": self._fingerprint})
                self._sources.append(_JournalRows(self.path / name))
            position = self._journal.append(vars(row))
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}. {row.name} could not be stored; what was stored before is safe. Make room (or "
                "repair the folder) and start again: the run goes on where it stopped",
                str(self.path),
            ) from error
        self._index[row.key] = _place(len(self._sources) - 1, position)

    def flush(self) -> None:
        """Finish this process's journal: all of it on the disk, and free for [`~AttributionStore.compact`]."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def compact(self) -> None:
        """
        Flush, and move the rows of finished journals into the parts.

        What other processes have added since this store was opened is taken along, and seen afterwards. Their journals
        stay where they are while they are at work. Whatever ends this on the way, no row is lost.

        Raises:
            `OSError`: If the parts cannot be written, the disk being full or otherwise. The store is then as before.
        """
        self.flush()
        parts, journals = self._files()
        if not journals and len(set(map(_generation, parts))) < 2:
            return
        with _locked(self.path, "compact", wait=True):
            self._load()
            try:
                self._rewrite([source for source in self._sources if not source.live])
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}. All {len(self)} rows are safe and can be read; they could not be moved into "
                    "the store's final files, which takes as much room again for a while. Make room and start again",
                    str(self.path),
                ) from error
            self._load()
            for path in self.path.glob(".*.tmp"):  # of runs that were killed while they wrote
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > 3600:
                        path.unlink()

    def check_mergeable(self, other: "AttributionStore") -> None:
        """
        Refuse a store whose scores were made in another way.

        Args:
            other ([`AttributionStore`]):
                Store that is to be merged into this one.

        Raises:
            `ValueError`: If its settings differ, or an array that the scores depend on does.
        """
        differences = describe_differences(self.settings, other.settings, str(self.path), str(other.path))
        if differences:
            raise ValueError(
                f"The attribution stores {str(self.path)!r} and {str(other.path)!r} were made with other settings, "
                f"and scores of different settings must not mix:\n{differences}"
            )
        for file in other._arrays():
            ours = self.read_array(file.stem)
            if ours is not None and not np.array_equal(ours, other.read_array(file.stem)):
                raise ValueError(
                    f"The scores in {str(self.path)!r} and {str(other.path)!r} depend on different arrays "
                    f"{file.stem!r} and must not mix. Of the rule 'density', each store learnt its own: attribute a "
                    "few traces first, and start every job from a copy of that store."
                )

    def merge(self, other: "AttributionStore") -> int:
        """
        Take over the rows that another store of the same settings has and this one has not.

        Args:
            other ([`AttributionStore`]):
                Store to read.

        Returns:
            `int`: Number of rows taken over.

        Raises:
            `ValueError`: See [`~AttributionStore.check_mergeable`].
        """
        self.check_mergeable(other)
        for file in other._arrays():
            self.write_array(file.stem, other.read_array(file.stem))
        taken = 0
        for key, row in other.items():
            if key not in self:
                self.add(row)
                taken += 1
        return taken

    def _arrays(self):
        return [path for path in sorted(self.path.glob("*.json")) if path.name != "settings.json"]

    def write_array(self, name: str, values: np.ndarray) -> None:
        """
        Keep an array that the scores depend on beside them.

        Args:
            name (`str`):
                Its name.
            values (`np.ndarray`):
                Numbers, shape (values,).
        """
        _write_atomically(self.path / f"{name}.json", json.dumps(np.asarray(values).tolist()).encode())

    def read_array(self, name: str) -> np.ndarray | None:
        """
        Read what [`~AttributionStore.write_array`] wrote.

        Args:
            name (`str`):
                Its name.

        Returns:
            `np.ndarray` or `None`: The array, shape (values,), if there is one.
        """
        file = self.path / f"{name}.json"
        return np.array(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Parts and journals, older ones first."""
        parts = sorted(path for path in self.path.glob("part-*.arrow") if _PART.fullmatch(path.name))
        return parts, sorted(self.path.glob("journal-*.jsonl"))

    def _load(self):
        """Open what is in the folder, older files first, and find each row's place."""
        for attempt in range(10):
            parts, journals = self._files()
            try:
                sources = [self._open(_Part, path) for path in parts]
                sources += [self._open(_JournalRows, path) for path in journals]
                break
            except FileNotFoundError:  # moved by another process's `compact` since it was listed
                if attempt == 9:
                    raise
                time.sleep(0.1)
        self._sources = [source for source in sources if source is not None]
        self._index = _index_of(self._sources)

    def _open(self, kind, path):
        """A file's rows; `None` if they cannot be trusted, and then a store that is written sets the file aside."""
        try:
            source = kind(path)
            if source.settings == self._fingerprint:
                return source
            reason = "belongs to other settings than the store"
        except _Damaged as error:
            reason = str(error)
        if self._writable:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                path.rename(path.with_name(f"damaged-{path.name}"))
        fate = f"set aside as damaged-{path.name}" if self._writable else "left out"
        logger.warning(
            f"{path.name} of the attribution store at {str(self.path)!r} {reason}. It is {fate}; traces that only it "
            "holds have to be attributed again."
        )
        return None

    def _read(self, place: int) -> StoredAttribution:
        source, position = self._sources[place >> _POSITION_BITS], place & ((1 << _POSITION_BITS) - 1)
        return StoredAttribution(**source.read(position))

    def _rewrite(self, sources):
        """Write the newest rows of some sources to parts of a new generation, then remove the sources."""
        places = _index_of(sources).sorted_values()
        generation = 1 + max((_generation(source.path) for source in sources if isinstance(source, _Part)), default=0)
        rows_each = max(_LEAST_ROWS, -(-len(places) // _MOST_PARTS))
        schema = _SCHEMA.with_metadata({"settings": self._fingerprint})
        parts = []
        for start in range(0, len(places), rows_each):
            rows = [
                sources[place >> _POSITION_BITS].read(place & ((1 << _POSITION_BITS) - 1))
                for place in places[start : start + rows_each].tolist()
            ]
            parts.append(_write_part(self.path, generation, pa.RecordBatch.from_pylist(rows, schema)))
        _sync_folder(self.path)
        # Oldest first: ended on the way, what is left is the newest of each row, and some of it twice
        for source in sources:
            if source.damaged:
                with contextlib.suppress(FileNotFoundError):
                    source.path.rename(source.path.with_name(f"damaged-{source.path.name}"))
            else:
                source.path.unlink(missing_ok=True)
        # The store is now the same as one that was never interrupted, but for this number
        for part in parts:
            part.rename(part.with_name(part.name.replace(f"part-{generation:04d}", "part-0001")))
        _sync_folder(self.path)


class _Damaged(Exception):
    """A file is not what was written. Says so in words that follow the file's name."""


class _Part:
    """Rows in a memory-mapped Arrow file, which is checked when it is opened."""

    live, damaged, problem = False, 0, None

    def __init__(self, path: Path):
        self.path = path
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()
        if hashlib.sha256(content).hexdigest()[:32] != _PART.fullmatch(path.name)[2]:
            raise _Damaged("does not have the checksum that it is named by: it was damaged after it was written")
        with pa.ipc.open_file(content) as file:
            self._rows = file.get_batch(0)
            self.settings = file.schema.metadata[b"settings"].decode()

    def entries(self) -> Iterator[tuple[int, str]]:
        return enumerate(self._rows.column("key").to_pylist())

    def read(self, position: int) -> dict[str, Any]:
        return self._rows.slice(position, 1).to_pylist()[0]


class _JournalRows:
    """Rows in a journal whose writer has ended, or that is still growing."""

    def __init__(self, path: Path):
        self.path = path
        self._reader = JournalReader(path)
        if self._reader.header is None:
            raise _Damaged("does not begin like a journal")
        self.settings = self._reader.header["settings"]

    @property
    def live(self) -> bool:
        return self._reader.live

    @property
    def damaged(self) -> int:
        return self._reader.damaged

    def entries(self) -> Iterator[tuple[int, str]]:
        return ((position, record["key"]) for position, record in self._reader.records())

    def read(self, position: int) -> dict[str, Any]:
        return self._reader.read(position)

    @property
    def problem(self) -> str | None:
        """What is missing of it, in words that follow its name."""
        if self._reader.damaged:
            return f"was damaged: {self._reader.damaged} of its records cannot be read"
        if self._reader.torn and not self.live:
            return "ends within a record: the run that wrote it was cut off"
        return None


@contextlib.contextmanager
def exclusive_run(path: str | os.PathLike, share: tuple[int, int] | None = None) -> Iterator[None]:
    """
    Keep other runs off a store while this one attributes into it: they would do the same work twice.

    Rows are safe without it. The lock ends with the process, however that ends.

    Args:
        path (`str` or `os.PathLike`):
            Folder of the store.
        share (`tuple[int, int]`, *optional*):
            Which share of the dataset the run has, of how many; runs with other shares go on beside it.

    Raises:
        `RuntimeError`: If another run holds the store, or this share of it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(path, "run", shared=share is not None))
        if share is not None:
            stack.enter_context(_locked(path, "shard-{}-of-{}".format(*share)))
        yield


@contextlib.contextmanager
def _locked(folder, name, shared=False, wait=False):
    path = Path(folder) / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        if lock(file.fileno(), shared, wait) is False:
            file.seek(0)
            raise RuntimeError(
                f"Another run is at work on the attribution store at {str(folder)!r} ({name}: {file.read().strip()}). "
                "Wait until it has ended and start again (what it has stored costs nothing), or give this run another "
                "folder. Jobs that are to share a dataset each take a part of it with `--shard`."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")
        file.flush()
        yield


def describe_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], our_name: str, their_name: str) -> str:
    """
    Where two stores' settings differ.

    Args:
        ours (`Mapping`):
            Settings.
        theirs (`Mapping`):
            Other settings.
        our_name (`str`):
            What to call the first.
        their_name (`str`):
            What to call the second.

    Returns:
        `str`: A line per setting; empty if there is no difference.
    """
    return "\n".join(
        f"  {key}: {our_name} {ours.get(key)!r}, {their_name} {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    )


def _index_of(sources) -> KeyIndex:
    index = KeyIndex()
    for number, source in enumerate(sources):
        positions, keys = [], []
        for position, key in source.entries():
            positions.append(_place(number, position))
            keys.append(key)
        index.extend(keys, positions)
    return index


def _place(source: int, position: int) -> int:
    return (source << _POSITION_BITS) | position


def _generation(part: Path) -> int:
    return int(_PART.fullmatch(part.name)[1])


def _write_part(folder: Path, generation: int, rows: pa.RecordBatch) -> Path:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as file:
        file.write_batch(rows)
    content = sink.getvalue()
    path = folder / f"part-{generation:04d}-{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    _write_atomically(path, content)
    return path


def _write_atomically(path: Path, content: bytes, replace: bool = True) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:  # not every file system can
                os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring renames and removals to the disk."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
