"""Files whose origin nobody knows are looked at before they are opened: a pipe in their place would never end."""

import os
import stat
from pathlib import Path


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class IrregularFileError(ValueError):
    """
    There is something else where a file should be.

    Args:
        path (`Path`):
            Its place.
        kind (`str`):
            What it is, in words that follow "is".
    """

    def __init__(self, path: Path, kind: str):
        super().__init__(
            f"{str(path)!r} is {kind} and no file, so it is neither read nor written. Remove it, or choose another "
            "place."
        )
        self.kind = kind


def check_regular(path: str | os.PathLike) -> Path:
    """
    Refuse what is no file.

    Args:
        path (`str` or `os.PathLike`):
            What is about to be opened; links are followed.

    Returns:
        `Path`: The same.

    Raises:
        [`IrregularFileError`]: If it is a pipe, a socket, a device or a folder.
        `FileNotFoundError`: If there is nothing.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise IrregularFileError(Path(path), _KINDS.get(stat.S_IFMT(mode), "something else"))
    return Path(path)
