"""Errors of the user, and their messages in one line."""

import itertools


class UserError(Exception):
    """A mistake in the user's request. Its message names the way out."""


# Libraries that raise errors of their own about files, names and templates that the user passed
_LIBRARIES = ("datasets", "huggingface_hub", "jinja2", "yaml")


def is_for_users(error: BaseException) -> bool:
    """
    Whether an error is about the user's input or the machine, and not about this program.

    Args:
        error (`BaseException`):
            The error.

    Returns:
        `bool`: `True` for errors whose message is enough.
    """
    if isinstance(error, ImportError) and (error.name or "").startswith("trl_segment"):
        return False
    if isinstance(error, (UserError, ValueError, OSError, ImportError, MemoryError, NotImplementedError)):
        return True
    if type(error).__module__.split(".")[0] in _LIBRARIES:
        return True
    if not isinstance(error, RuntimeError):
        return False
    # Libraries raise it about everything, this package only about things that a user can change
    return type(error).__name__ == "OutOfMemoryError" or _raised_in(error).startswith("trl_segment")


def _raised_in(error: BaseException) -> str:
    """Name of the module that raised an error."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return "" if step is None else str(step.tb_frame.f_globals.get("__name__", ""))


def one_line(error: BaseException) -> str:
    """
    The message of an error in one line. Indented lines, which list things, are set apart by semicolons.

    Args:
        error (`BaseException`):
            An error.

    Returns:
        `str`: Its message.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    shown = lines[0].strip()
    for before, line in itertools.pairwise(lines):
        listed = before[0].isspace()
        joint = "; " if listed and line[0].isspace() else ". " if listed and shown[-1] not in ".:;" else " "
        shown += joint + line.strip()
    return shown
