"""The help of a command: one line for each option, or all that there is to say of it."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Sequence

from .options import OF_EVERY_COMMAND, Command, Names, Option


def help_text(command: Command) -> str:
    """
    The help of a command, for which nothing is loaded that takes long.

    Args:
        command ([`~trl_segment.cli.options.Command`]):
            The command.

    Returns:
        `str`: Lines, the last with a newline.
    """
    width = _width()
    lines = _head(command, width)
    for group in command.shown or command.groups:
        lines += ["", f"{group.title}:"]
        if isinstance(group, Names):
            lines += _named([f"--{name}" for name in group.names], width)
        elif group.brief:
            lines += _named([option.name for option in group.options()], width)
        else:
            lines += [_line(option, width) for option in group.options()]
    return "\n".join([*lines, *_foot(command, width)]) + "\n"


def whole_help_text(command: Command, sections: Sequence[tuple[str, Sequence[Option]]]) -> str:
    """
    All that there is to say of a command's options.

    Args:
        command ([`~trl_segment.cli.options.Command`]):
            The command.
        sections (`Sequence[tuple[str, Sequence[Option]]]`):
            Headings and options.

    Returns:
        `str`: Lines, the last with a newline.
    """
    width = _width()
    lines = _head(command, width)
    for title, options in sections:
        lines += ["", f"{title}:"]
        for option in options:
            about = " ".join((option.help or "").replace("%%", "%").split())
            if option.choices is not None:
                about += f" One of {', '.join(map(str, option.choices))}."
            lines += [f"  {option.name}{_default(option)}", *textwrap.wrap(about, width, **_INDENT)]
    return "\n".join([*lines, *_foot(command, width)]) + "\n"


def shortened(text: str, room: int) -> str:
    """
    The start of a text that fits: its first sentences, or else its first clauses.

    Args:
        text (`str`):
            One paragraph.
        room (`int`):
            Number of characters.

    Returns:
        `str`: At most so many characters, without a full stop.
    """
    text = text.rstrip(".")
    if len(text) <= room:
        return text
    sentences = re.split(r"(?<=[a-z0-9)`'\]])\.\s(?=[A-Z'`])", text)
    while len(sentences) > 1 and len(". ".join(sentences)) > room:
        sentences.pop()
    text = ". ".join(sentences)
    if len(text) <= room:
        return text
    depth, end = 0, 0
    for place, character in enumerate(text[: room + 1]):
        if depth == 0 and (character in ":;" or (character == "," and place > 20) or text[place : place + 2] == " ("):
            end = place
        depth += (character in "([") - (character in ")]")
    return text[:end] if end else text[: room - 3].rsplit(" ", 1)[0] + "..."


_INDENT = {"initial_indent": " " * 6, "subsequent_indent": " " * 6, "break_on_hyphens": False}


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 80), 120)


def _head(command, width):
    return [f"usage: trl-segment {command.name} {command.usage}", "", *textwrap.wrap(command.purpose, width)]


def _foot(command, width):
    shown = []
    if command.groups:
        taken = ", ".join(f"{name} ({about})" for name, about in OF_EVERY_COMMAND.items())
        shown = ["", *textwrap.wrap(f"Every command takes {taken}.", width, break_on_hyphens=False)]
    # A backslash at the end of a line goes on, so that a copied example runs as it is
    return [*shown, "", "examples:", *(f"  {line}" for example in command.examples for line in _broken(example))]


def _broken(example: str) -> list[str]:
    parts = re.split(r" (?=--)", example)
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= 76:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {part}")
    return lines


def _named(names, width):
    return textwrap.wrap(
        ", ".join(names), width - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )


def _line(option: Option, width: int) -> str:
    start = f"  {option.name:<28} "
    return f"{start}{_summary(option, width - len(start))}".rstrip()


def _default(option: Option) -> str:
    """The default of an option in brackets, where it says something and is short."""
    value = option.default
    if value in (None, argparse.SUPPRESS) or value is False or isinstance(value, list):
        return ""
    shown = str(value)
    return f" [{shown}]" if shown and "\n" not in shown and len(shown) <= 30 else ""


def _summary(option: Option, room: int) -> str:
    """Help, choices and default of an option in one line."""
    default = _default(option)
    text = " ".join((option.help or "").split())
    choices = "" if option.choices is None else f" {{{','.join(map(str, option.choices))}}}"
    # A short text is shown whole, a long one is cut so that choices have room
    most = room - len(default) - (len(text) if len(text) + len(default) <= room else 40)
    if len(choices) > most:
        choices = f"{choices[: most - 5].rpartition(',')[0]},...}}" if most > 20 else ""
    start = shortened(text, room - len(choices) - len(default))
    if start.endswith("...") and choices:
        start, choices = shortened(text, room - len(default)), ""
    return start + choices + default
