"""How a command starts: with its help, for which nothing is loaded that takes long, or with its parser."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .help import help_text
from .options import Command


if TYPE_CHECKING:
    from .parser import CommandParser


def start(command: Command, argv: Iterable[str] | None = None) -> "CommandParser":
    """
    The parser of a command, unless the line asks for help.

    Args:
        command ([`~trl_segment.cli.options.Command`]):
            The command.
        argv (`Iterable[str]`, *optional*):
            Arguments. Defaults to those of the process.

    Returns:
        [`~trl_segment.cli.parser.CommandParser`]: The parser.

    Raises:
        `SystemExit`: After the help.
    """
    words = set(sys.argv[1:] if argv is None else argv)
    if words & {"-h", "--help"}:
        print(help_text(command), end="")
        raise SystemExit(0)
    # TRL's parser stands behind it
    from .parser import CommandParser

    parser = CommandParser(command)
    if words & {"--help-all", "--help_all"}:
        print(parser.format_help(), end="")
        raise SystemExit(0)
    return parser
