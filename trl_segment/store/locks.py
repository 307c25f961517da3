"""Locks on a store's folder, which end with the process that holds them."""

import contextlib
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .journal import lock
from .regular import IrregularFileError


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
        `RuntimeError`: If another run holds the store, or this share of it, or its lock is a link.
    """
    folder = Path(path)
    is_new = not folder.exists()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(path, "run", shared=share is not None))
            if share is not None:
                stack.enter_context(locked(path, "shard-{}-of-{}".format(*share)))
            yield
    finally:
        # A run that ended before it made a store leaves no folder behind that looks like one
        if is_new and folder.is_dir() and {child.name for child in folder.iterdir()} == {".locks"}:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: str | os.PathLike, name: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    path = Path(folder) / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_lock(path) as file:
        if lock(file.fileno(), shared, wait) is False:
            file.seek(0)
            raise RuntimeError(
                f"Another run is at work on the attribution store at {str(folder)!r} ({name}: {file.read().strip()}). "
                "Wait until it has ended and start again (what it has stored costs nothing), or give this run another "
                "folder. Jobs that are to share a dataset each take a part of it with `--shard`."
            )
        file.truncate(0)
        file.write(f"{_HOLDER}{os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")
        file.flush()
        yield


# How the content of a lock begins, which says who holds it
_HOLDER = "process "


def _open_lock(path: Path) -> TextIO:
    """A lock of ours, or a new one. Who holds it is written into it, so it must not be another file by a link."""
    descriptor = None
    with contextlib.suppress(OSError):
        if not path.parent.is_symlink():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
    if descriptor is None and not (path.is_symlink() or path.parent.is_symlink()):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)  # for the system's own message
    if descriptor is not None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise IrregularFileError(path, "a pipe or a device")
        file = open(descriptor, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115
        file.seek(0)
        if file.read(len(_HOLDER)) in ("", _HOLDER) and status.st_nlink <= 1:
            return file
        file.close()
    raise RuntimeError(
        f"{str(path)!r} is a link, or no lock of this package. Nothing is written into it: remove it, or give this "
        "run another folder."
    )
