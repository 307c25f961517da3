"""Text and numbers from anywhere, made safe to show and to write: what is printed, logged, and kept as JSON."""

import functools
import logging
import math
import traceback
import unicodedata
from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    r"""
    Text that can only be read: no escape sequence of a trace moves a terminal's cursor, no direction character makes
    it look like another text.

    Args:
        text (`str`):
            Text from anywhere.

    Returns:
        `str`: The text with control and direction characters written out (`\x1b`), but for newlines, tabs and joiners.
    """

    # The joiners of scripts and emoji change no order
    kept = "\n\t\u200c\u200d"

    def shown(character):
        if character in kept or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co"):
            return character
        return character.encode("unicode_escape").decode()

    return "".join(map(shown, text.replace("\r\n", "\n")))


def json_ready(value: Any) -> Any:
    """
    A value that JSON can hold: numbers that are not finite, which JSON lacks, become `None`.

    Args:
        value (`Any`):
            Dictionaries, sequences, strings, numbers, `None`.

    Returns:
        `Any`: The same, of plain Python types.
    """
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def get_logger(name: str) -> logging.Logger:
    """
    A logger whose messages can only be read, since names of rows and files stand in them.

    Args:
        name (`str`):
            Name of the module.

    Returns:
        `logging.Logger`: The logger.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(known, _Printable) for known in logger.filters):
        logger.addFilter(_Printable())
    return logger


@functools.lru_cache(maxsize=1024)
def warn_once(logger: logging.Logger, message: str) -> None:
    """
    Log a warning, but not one that was logged before.

    Args:
        logger (`logging.Logger`):
            Where to.
        message (`str`):
            The warning.
    """
    logger.warning(message)


class _Printable(logging.Filter):
    def filter(self, record):
        record.msg, record.args = printable(record.getMessage()), ()
        return True


def printable_traceback(error: BaseException) -> str:
    """
    A traceback as Python prints it, with its messages made safe.

    Args:
        error (`BaseException`):
            An error.

    Returns:
        `str`: Lines, the last with a newline.
    """
    return printable("".join(traceback.format_exception(error)))
