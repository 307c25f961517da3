"""The files that a store's rows lie in: checked when they are opened, written so that no half of one is ever seen."""

import contextlib
import hashlib
import itertools
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from .journal import JournalReader
from .regular import IrregularFileError, check_regular
from .rows import SCHEMA, find_impossible


PART_NAME = re.compile(r"part-(\d{4})-([0-9a-f]{32})\.arrow")
# What the scores depend on besides the settings
ARRAY_NAME = re.compile(r"array-(\w+)\.json")


class Damaged(Exception):
    """A file is not what was written. Says so in words that follow the file's name."""


class Part:
    """Rows in a memory-mapped Arrow file, which is checked when it is opened."""

    live = False

    def __init__(self, path: Path):
        self.path = _checked(path)
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()
        if hashlib.sha256(content).hexdigest()[:32] != _numbers_of(path)[1]:
            raise Damaged("does not have the checksum that it is named by: it was damaged after it was written")
        try:
            with pa.ipc.open_file(content) as file:
                self.settings = file.schema.metadata[b"settings"].decode()
                if file.schema.remove_metadata() != SCHEMA or file.num_record_batches != 1:
                    raise Damaged("has other columns than a store")
                self._rows = file.get_batch(0)
            # A checksum only says that nothing has changed since: an offset that leaves its buffer would end the
            # process when it is followed
            self._rows.validate(full=True)
        except (pa.ArrowException, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise Damaged(f"is no file that a store has written ({str(error) or type(error).__name__})") from error
        self._impossible = find_impossible(self._rows)

    @property
    def damaged(self) -> int:
        return len(self._impossible)

    @property
    def problem(self) -> str | None:
        return _describe(self._impossible, self._rows)

    def entries(self) -> Iterator[tuple[int, str]]:
        entries = enumerate(self._rows.column("key").to_pylist())
        return ((row, key) for row, key in entries if row not in self._impossible)

    def read(self, position: int) -> dict[str, Any]:
        return self._rows.slice(position, 1).to_pylist()[0]


class JournalRows:
    """Rows in a journal whose writer has ended, or that is still growing."""

    def __init__(self, path: Path):
        self.path = _checked(path)
        self._reader = JournalReader(path)
        if self._reader.header is None or not isinstance(self._reader.header.get("settings"), str):
            raise Damaged("does not begin like a journal")
        self.settings = self._reader.header["settings"]
        self._impossible: str | None = None
        self._left_out = 0

    @property
    def live(self) -> bool:
        return self._reader.live

    @property
    def damaged(self) -> int:
        return self._reader.damaged + self._left_out

    def entries(self) -> Iterator[tuple[int, str]]:
        self._impossible, self._left_out = None, 0
        records = self._reader.records()
        while chunk := list(itertools.islice(records, _CHECKED_AT_A_TIME)):
            wrong = _impossible_records([record for _, record in chunk])
            for number, (position, record) in enumerate(chunk):
                if number in wrong:
                    self._left_out += 1
                    self._impossible = self._impossible or wrong[number]
                else:
                    yield position, record["key"]

    def read(self, position: int) -> dict[str, Any]:
        return self._reader.read(position)

    @property
    def problem(self) -> str | None:
        """What is missing of it, in words that follow its name."""
        if self._left_out:
            return f"holds {self._left_out} rows that no scorer makes (the first: {self._impossible})"
        if self._reader.damaged:
            return f"was damaged: {self._reader.damaged} of its records cannot be read"
        if self._reader.torn and not self.live:
            return "ends within a record: the run that wrote it was cut off"
        return None


def _checked(path: Path) -> Path:
    try:
        return check_regular(path)
    except IrregularFileError as error:
        raise Damaged(f"is {error.kind} and no file") from error


# Records of a journal that are held in memory at once
_CHECKED_AT_A_TIME = 512


def _impossible_records(records: list[dict[str, Any]]) -> dict[int, str]:
    """As [`~trl_segment.store.rows.find_impossible`], of records that may hold anything."""
    try:
        known = all(record.keys() <= set(SCHEMA.names) for record in records)
        # Arrow would round fractions
        if known and all(isinstance(n, int) for record in records for n in record.get("num_tokens") or ()):
            return find_impossible(pa.RecordBatch.from_pylist(records, SCHEMA))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    if len(records) == 1:
        return {0: "it has other fields, or other things in them"}
    singles = (_impossible_records([record]) for record in records)
    return {number: found[0] for number, found in enumerate(singles) if found}


def _describe(impossible: dict[int, str], rows: pa.RecordBatch) -> str | None:
    if not impossible:
        return None
    first = min(impossible)
    return (
        f"holds {len(impossible)} rows that no scorer makes (the first, {rows.column('name')[first].as_py()!r}: "
        f"{impossible[first]})"
    )


def _numbers_of(part: Path) -> tuple[str, str]:
    """Generation and checksum in a part's name."""
    name = PART_NAME.fullmatch(part.name)
    assert name is not None, f"{part} is not called like a part"
    return name[1], name[2]


def generation_of(part: Path) -> int:
    return int(_numbers_of(part)[0])


def write_part(folder: Path, number: int, rows: pa.RecordBatch) -> Path:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as file:
        file.write_batch(rows)
    content = sink.getvalue()
    path = folder / f"part-{number:04d}-{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    write_atomically(path, content)
    return path


def write_atomically(path: Path, content: bytes, replace: bool = True) -> None:
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


def sync_folder(folder: Path) -> None:
    """Bring renames and removals to the disk."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
