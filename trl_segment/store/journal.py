"""
Append-only files of JSON records, one writer each: what a killed run leaves is every record but the one in hand.

A line is the CRC-32 of a record in hexadecimal, a space, the record, and a newline. A record is handed to the
operating system when it is appended, so that the end of the process cannot take it away, and to the disk once a
second, so that the end of the machine takes at most what was made since.
"""

import errno
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..printing import get_logger, warn_once


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = get_logger(__name__)

_SYNC_SECONDS = 1.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def lock(descriptor: int, shared: bool = False, wait: bool = False) -> bool | None:
    """
    Lock an open file until it is closed or its process ends, however it ends.

    Args:
        descriptor (`int`):
            File descriptor.
        shared (`bool`, *optional*, defaults to `False`):
            Whether others may hold shared locks at the same time.
        wait (`bool`, *optional*, defaults to `False`):
            Whether to wait for those who hold it.

    Returns:
        `bool` or `None`: Whether it is ours; `None` where there are no file locks, with a warning.
    """
    if fcntl is None:
        warn_once(logger, "This system has no file locks: run one process at a time on an attribution store.")
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn_once(
            logger,
            f"This file system has no file locks ({error.strerror}): run one job at a time on an attribution store, "
            "or give each its own and merge them with `trl-segment merge`.",
        )
        return None
    return True


class Journal:
    """
    A journal that this process writes. [`JournalReader`] reads it, also meanwhile.

    Args:
        path (`Path`):
            File to create. It is locked until [`~Journal.close`] or the end of the process.
        header (`dict`):
            First record.
    """

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path = path
        # Under its name once it is locked, or another process could take it for one whose writer is dead
        unlocked = path.with_name(f".{path.name}.tmp")
        self._file = open(unlocked, "a+b", buffering=0)  # noqa: SIM115
        self._end = 0
        self._synced = time.monotonic()
        try:
            lock(self._file.fileno())
            self.append(header)
            os.rename(unlocked, path)
        except OSError:
            unlocked.unlink(missing_ok=True)
            raise

    def append(self, record: dict[str, Any]) -> int:
        """
        Write a record behind the others.

        Args:
            record (`dict`):
                JSON-compatible; NumPy numbers and arrays count as such.

        Returns:
            `int`: Where it starts.

        Raises:
            `OSError`: If it cannot be written, the disk being full or otherwise. The journal is then as before.
            `RuntimeError`: If the file is gone.
        """
        content = json.dumps(record, separators=(",", ":"), default=lambda value: value.tolist()).encode()
        line = b"%08x %s\n" % (zlib.crc32(content), content)
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise RuntimeError(
                f"{str(self.path)!r} was removed while this process wrote to it. If another machine works on the same "
                "store, this file system does not lock across machines: give each job a store of its own and merge "
                "them with `trl-segment merge`."
            )
        start, written = self._end, 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(start)  # works on a full disk too
            raise
        self._end += written
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        return start

    def close(self) -> None:
        """Bring everything to the disk and release the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


class JournalReader:
    """
    A journal that another process wrote, or is writing.

    Args:
        path (`Path`):
            The file.

    Attributes:
        header (`dict` or `None`):
            First record, if it can be read.
        torn (`bool`):
            Whether the last record was not finished, after a call of [`~JournalReader.records`].
        damaged (`int`):
            Number of other records that cannot be read, after a call of [`~JournalReader.records`].
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115
        self.torn, self.damaged = False, 0
        self.header = _parse(self._file.readline())

    @property
    def live(self) -> bool:
        """Whether its writer may still be at work."""
        return not lock(self._file.fileno(), shared=True)

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Where each record starts, and the record; what fails its checksum is left out and counted."""
        self.torn, self.damaged = False, 0
        self._file.seek(0)
        start = len(self._file.readline())
        while True:
            self._file.seek(start)  # the caller may read in between
            line = self._file.readline()
            if not line:
                break
            if not line.endswith(b"\n"):
                self.torn = True
                break
            record = _parse(line)
            if record is None:
                self.damaged += 1
            else:
                yield start, record
            start += len(line)

    def read(self, start: int) -> dict[str, Any]:
        """The record that starts there."""
        self._file.seek(start)
        record = _parse(self._file.readline())
        if record is None:
            raise OSError(f"{self._file.name!r} was damaged at byte {start} since it was opened")
        return record


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or `None` if it is not what was written."""
    content = line[9:-1]
    if line[-1:] != b"\n" or line[:9] != b"%08x " % zlib.crc32(content):
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
