"""Print lines that hold names and texts from data."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..printing import json_ready, printable
from ..progress import is_quiet


def say(*lines: str) -> None:
    """
    Print lines. Control characters in them are written out, so that no name or text of a dataset moves the cursor.

    Args:
        *lines (`str`):
            Lines.
    """
    print(printable("\n".join(lines)), flush=True)


def note(*lines: str) -> None:
    """
    Print lines on what was done, which `--quiet` leaves out. Results and whatever a person must know are [`say`].

    Args:
        *lines (`str`):
            Lines.
    """
    if not is_quiet():
        say(*lines)


def warn(*lines: str) -> None:
    """
    Print lines on stderr: what a person should know of a run that did not fail.

    Args:
        *lines (`str`):
            Lines, of which there may be none. Their control characters are written out.
    """
    if lines:
        print(printable("\n".join(lines)), file=sys.stderr, flush=True)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """
    The first of many names.

    Args:
        names (`Sequence[str]`):
            Names.
        most (`int`, *optional*, defaults to `5`):
            Number of names to show.

    Returns:
        `str`: The names, with dots behind them if there are more.
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def reasons(found: Mapping[str, Sequence[str]], indent: str = "  ") -> list[str]:
    """
    One line per reason, with the first names it applies to.

    Args:
        found (`Mapping[str, Sequence[str]]`):
            Names by reason.
        indent (`str`, *optional*, defaults to two spaces):
            Start of each line.

    Returns:
        `list[str]`: The lines.
    """
    return [f"{indent}{len(names):,} x {reason}: {some_of(names)}" for reason, names in found.items()]


def count(number: int, noun: str) -> str:
    """
    A number with its noun.

    Args:
        number (`int`):
            The number.
        noun (`str`):
            In the singular; the plural takes an s.

    Returns:
        `str`: `"1 trace"`, `"2 traces"`.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def write_json(path: str | os.PathLike, value: Any) -> None:
    """
    Write a file that another program reads.

    Args:
        path (`str` or `os.PathLike`):
            File. Its folder is made if there is none.
        value (`Any`):
            Dictionaries, sequences, arrays, strings, numbers, `None`. What is not finite becomes `null`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json_ready(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
