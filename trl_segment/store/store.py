"""
Stored attributions: a folder with `settings.json` (what made them) and files with one row per trace.

A row has the few numbers per segment that every selection rule needs, so thresholds can change for free.

Every process that writes has a journal of its own (`journal-*.jsonl`), which holds a trace as soon as it is
attributed. [`~AttributionStore.compact`] moves the rows of finished journals into Arrow files
(`part-GENERATION-SHA256.arrow`): sorted by key, so that they do not depend on who wrote what when, memory-mapped, so
that a million traces need no memory, and named by their checksum, so that damage is found. If a trace has two
rows, a journal's is newer than a part's, and a later generation's is newer than an earlier one's.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..printing import get_logger
from .files import (
    ARRAY_NAME,
    PART_NAME,
    Damaged,
    JournalRows,
    Part,
    generation_of,
    sync_folder,
    write_atomically,
    write_part,
)
from .index import KeyIndex
from .journal import Journal
from .locks import locked
from .regular import check_regular
from .rows import SCHEMA, StoredAttribution
from .settings import StoreSettings


logger = get_logger(__name__)

# A store has at most this many parts, or parts of this many rows: what one damaged file costs, and open files
_MOST_PARTS, _LEAST_ROWS = 64, 256
# A place is a source's number and, in the lower bits, a row or a position in its file
_POSITION_BITS = 44

Source = Part | JournalRows


class AttributionStore(Mapping):
    """
    The attributions in a folder, by trace key. A row is on disk as soon as it is added.

    Several processes may have a folder open and add to it. Each sees what was there when it opened it, and what it
    added itself.

    Args:
        path (`str` or `os.PathLike`):
            Folder of the store.
        settings ([`~trl_segment.store.StoreSettings`], *optional*):
            Everything that changes the scores. To write, it must be given; an existing store with other settings is
            refused. `None` opens an existing store for reading.

    Raises:
        `FileNotFoundError`: If there is no store to read.
        `ValueError`: If the store was made with other settings, or its settings cannot be read.
    """

    def __init__(self, path: str | os.PathLike, settings: StoreSettings | None = None):
        self.path = Path(path)
        self._writable = settings is not None
        settings_file = self.path / "settings.json"
        if settings is None and not settings_file.exists():
            raise FileNotFoundError(
                f"There is no attribution store at {str(self.path)!r} (no settings.json in it). Make one with "
                "`trl-segment attribute --model_name_or_path ... --dataset_name ... --attributions PATH`."
            )
        if settings is not None and not settings_file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            # Of two runs that begin at once with other settings one finds those of the other
            content = json.dumps(settings.to_dict(), indent=2).encode()
            write_atomically(settings_file, content, replace=False)
        self.settings = read_settings(self.path)
        if settings is not None:
            self._check_settings(settings)
        self._fingerprint, *self._earlier_fingerprints = self.settings.fingerprints()
        self._journal: Journal | None = None
        self._load()
        for source in self._sources:
            if source.problem:
                logger.warning(
                    f"{source.path.name} of the attribution store at {str(self.path)!r} {source.problem}. What is "
                    "missing is attributed again; everything else in it is good."
                )

    def _check_settings(self, settings: StoreSettings) -> None:
        differences = self.settings.differences(settings)
        if differences:
            raise ValueError(
                f"The attribution store at {str(self.path)!r} was made with other settings, and scores of different "
                f"settings must not mix:\n{_listed(differences)}\nChoose another folder with `attributions`, delete "
                "this one, or go back to its settings."
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
                self._sources.append(JournalRows(self.path / name))
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
        if not journals and len(set(map(generation_of, parts))) < 2:
            return
        with locked(self.path, "compact", wait=True):
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
        differences = self.settings.differences(other.settings, str(self.path), str(other.path))
        if differences:
            raise ValueError(
                f"The attribution stores {str(self.path)!r} and {str(other.path)!r} were made with other settings, "
                f"and scores of different settings must not mix:\n{_listed(differences)}"
            )
        for name, values in other._arrays():
            ours = self.read_array(name)
            if ours is not None and not np.array_equal(ours, values):
                raise ValueError(
                    f"The scores in {str(self.path)!r} and {str(other.path)!r} depend on different arrays "
                    f"{name!r} and must not mix. With the rule 'density' each store learns its own: attribute a "
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
        for name, values in other._arrays():
            self.write_array(name, values)
        taken = 0
        for key, row in other.items():
            if key not in self:
                self.add(row)
                taken += 1
        return taken

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for file in sorted(self.path.iterdir()):
            if (name := ARRAY_NAME.fullmatch(file.name)) is not None:
                yield name[1], _read_array(file)

    def write_array(self, name: str, values: np.ndarray) -> None:
        """
        Keep an array that the scores depend on beside them.

        Args:
            name (`str`):
                Its name, of letters, digits and underscores.
            values (`np.ndarray`):
                Numbers, shape (values,).

        Raises:
            `ValueError`: If the name is none.
        """
        content = json.dumps(np.asarray(values).tolist())
        text = json.dumps({"values": json.loads(content), "checksum": _checksum(content)})
        write_atomically(self._array_file(name), text.encode())

    def read_array(self, name: str) -> np.ndarray | None:
        """
        Read what [`~AttributionStore.write_array`] wrote.

        Args:
            name (`str`):
                Its name.

        Returns:
            `np.ndarray` or `None`: The array, shape (values,), if there is one.

        Raises:
            `ValueError`: If it is not what was written.
        """
        file, older = self._array_file(name), self.path / f"{name}.json"
        if not file.exists() and older.exists():
            raise ValueError(
                f"{str(older)!r} was written by an earlier trl-segment, without a checksum. Scores that depend on it "
                "and new ones must not mix: make the attributions again in another folder."
            )
        return _read_array(file) if file.exists() else None

    def _array_file(self, name: str) -> Path:
        file = self.path / f"array-{name}.json"
        if ARRAY_NAME.fullmatch(file.name) is None:
            raise ValueError(f"An array of a store has a name of letters, digits and underscores, not {name!r}.")
        return file

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Parts and journals, older ones first."""
        parts = sorted(path for path in self.path.glob("part-*.arrow") if PART_NAME.fullmatch(path.name))
        return parts, sorted(self.path.glob("journal-*.jsonl"))

    def _load(self) -> None:
        """Open what is in the folder, older files first, and find each row's place."""
        for attempt in range(10):
            parts, journals = self._files()
            try:
                sources = [self._open(Part, path) for path in parts]
                sources += [self._open(JournalRows, path) for path in journals]
                break
            except FileNotFoundError:  # moved by another process's `compact` since it was listed
                if attempt == 9:
                    raise
                time.sleep(0.1)
        self._sources = [source for source in sources if source is not None]
        self._index = _index_of(self._sources)

    def _open(self, kind: type[Source], path: Path) -> Source | None:
        """A file's rows; `None` if they cannot be trusted, and then a store that is written sets the file aside."""
        try:
            source = kind(path)
            if source.settings in (self._fingerprint, *self._earlier_fingerprints):
                return source
            reason = "belongs to other settings than the store"
        except Damaged as error:
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

    def _rewrite(self, sources: Sequence[Source]) -> None:
        """Write the newest rows of some sources to parts of a new generation, then remove the sources."""
        places = _index_of(sources).sorted_values()
        generation = 1 + max((generation_of(source.path) for source in sources if isinstance(source, Part)), default=0)
        rows_each = max(_LEAST_ROWS, -(-len(places) // _MOST_PARTS))
        schema = SCHEMA.with_metadata({"settings": self._fingerprint})
        parts = []
        for start in range(0, len(places), rows_each):
            rows = [
                sources[place >> _POSITION_BITS].read(place & ((1 << _POSITION_BITS) - 1))
                for place in places[start : start + rows_each].tolist()
            ]
            parts.append(write_part(self.path, generation, pa.RecordBatch.from_pylist(rows, schema)))
        sync_folder(self.path)
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
        sync_folder(self.path)


def read_settings(path: str | os.PathLike) -> StoreSettings:
    """
    What a store was made with, without opening its rows.

    Args:
        path (`str` or `os.PathLike`):
            Folder of the store.

    Returns:
        [`~trl_segment.store.StoreSettings`]: Its settings.

    Raises:
        `ValueError`: If they cannot be read.
    """
    file = check_regular(Path(path) / "settings.json")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({error}), so nobody knows what made the scores beside it. Put a copy of it "
            "back, or delete the folder."
        ) from error
    try:
        return StoreSettings.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{str(file)!r} {error}.") from error


def _read_array(file: Path) -> np.ndarray:
    check_regular(file)
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        values = np.array(stored["values"], dtype=np.float64)
        whole = stored["checksum"] == _checksum(json.dumps(stored["values"])) and np.isfinite(values).all()
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{str(file)!r} is not what was written (its checksum does not fit, or it holds no numbers). The scores "
            "beside it depend on it: put a copy of it back, or delete the folder."
        )
    return values


def _checksum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def settings_of(store: Mapping[str, StoredAttribution]) -> StoreSettings:
    """
    What made the scores of a store, or of the first of several that are read together.

    Args:
        store (`Mapping[str, StoredAttribution]`):
            An [`AttributionStore`], or a [`~collections.ChainMap`] of some.

    Returns:
        [`~trl_segment.store.StoreSettings`]: The settings.
    """
    while isinstance(store, ChainMap):
        store = store.maps[0]
    assert isinstance(store, AttributionStore)
    return store.settings


def _listed(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _index_of(sources: Sequence[Source]) -> KeyIndex:
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
