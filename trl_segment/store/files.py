"""The files that a store's rows lie in: checked when they are opened, written so that no half of one is ever seen."""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from .journal import JournalReader


PART_NAME = re.compile(r"part-(\d{4})-([0-9a-f]{32})\.arrow")


class Damaged(Exception):
    """A file is not what was written. Says so in words that follow the file's name."""


class Part:
    """Rows in a memory-mapped Arrow file, which is checked when it is opened."""

    live, damaged, problem = False, 0, None

    def __init__(self, path: Path):
        self.path = path
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()
        if hashlib.sha256(content).hexdigest()[:32] != _numbers_of(path)[1]:
            raise Damaged("does not have the checksum that it is named by: it was damaged after it was written")
        with pa.ipc.open_file(content) as file:
            self._rows = file.get_batch(0)
            self.settings = file.schema.metadata[b"settings"].decode()

    def entries(self) -> Iterator[tuple[int, str]]:
        return enumerate(self._rows.column("key").to_pylist())

    def read(self, position: int) -> dict[str, Any]:
        return self._rows.slice(position, 1).to_pylist()[0]


class JournalRows:
    """Rows in a journal whose writer has ended, or that is still growing."""

    def __init__(self, path: Path):
        self.path = path
        self._reader = JournalReader(path)
        if self._reader.header is None:
            raise Damaged("does not begin like a journal")
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
