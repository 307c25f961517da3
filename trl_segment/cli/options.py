"""What a command is and which options it has. Neither TRL nor torch is loaded to know it, or to print its help."""

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any


# What every command takes besides its options, and what it brings
OF_EVERY_COMMAND = {
    "--config": "options from a file",
    "--quiet": "results, warnings and errors alone",
    "--traceback": "where an error came from",
    "--help-all": "all of every option",
}


@dataclass(frozen=True)
class Option:
    """
    What a help says of an option.

    Args:
        name (`str`):
            As it is typed, `"--tau"`.
        help (`str`):
            What it is for.
        default (`Any`, *optional*):
            Its default, if that can be written down.
        choices (`list[str]`, *optional*):
            The values that it takes, if these can be listed.
        nargs (`str`, *optional*):
            `"?"` for a flag, `"+"` for a list, as in [`argparse`], if that is known.
    """

    name: str
    help: str
    default: Any = None
    choices: list[str] | None = None
    nargs: str | None = None


@dataclass(frozen=True)
class Group:
    """
    Options under a heading.

    Args:
        title (`str`):
            The heading.
        arguments (`type` or `str`):
            The dataclass that the options fill; `"module:Class"` for one that takes seconds to import.
        without (`tuple[str, ...]`, *optional*):
            Fields that have no effect in this command: they keep their defaults, and there is no option.
        brief (`bool`, *optional*, defaults to `False`):
            Whether the help only names the options, which another command explains.
        inherited (`tuple[str, str]`, *optional*):
            A heading and a base class, as `"module:Class"`: its fields stand under that heading behind all others.
    """

    title: str
    arguments: type | str
    without: tuple[str, ...] = ()
    brief: bool = False
    inherited: tuple[str, str] | None = None

    def options(self) -> list[Option]:
        """The options, in order."""
        return [
            Option(
                f"--{entry.name}",
                entry.metadata.get("help", ""),
                None if entry.default is dataclasses.MISSING else entry.default,
                entry.metadata.get("choices"),
            )
            for entry in dataclasses.fields(load_class(self.arguments))
            if entry.init and entry.name not in self.without
        ]


@dataclass(frozen=True)
class Names:
    """
    Options that a help only names.

    Args:
        title (`str`):
            The heading.
        names (`tuple[str, ...]`):
            The options, without dashes.
    """

    title: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """
    A command of `trl-segment`.

    Args:
        name (`str`):
            Its name.
        purpose (`str`):
            Its purpose, in a sentence.
        groups (`tuple[Group, ...]`):
            Its options. Parsing returns one object for each group.
        examples (`tuple[str, ...]`):
            Lines that can be copied.
        shown (`tuple[Group | Names, ...]`, *optional*):
            What its help shows, where that is not all of its options. `--help-all` shows all.
        usage (`str`, *optional*, defaults to `"[options]"`):
            What follows its name on a line.
    """

    name: str
    purpose: str
    groups: tuple[Group, ...]
    examples: tuple[str, ...]
    shown: "tuple[Group | Names, ...]" = ()
    usage: str = "[options]"


def load_class(arguments: type | str) -> type:
    """
    A dataclass of arguments.

    Args:
        arguments (`type` or `str`):
            The class, or `"module:Class"`.

    Returns:
        `type`: The class.
    """
    if isinstance(arguments, type):
        return arguments
    module, _, name = arguments.partition(":")
    return getattr(importlib.import_module(module), name)
