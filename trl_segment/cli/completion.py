"""`trl-segment completion`: a script that completes commands and options in bash, zsh or fish."""

import argparse
import importlib
import sys

from .errors import UserError
from .help import shortened
from .main import COMMANDS
from .options import OF_EVERY_COMMAND, Command, Option
from .start import start


SHELLS = ("bash", "zsh", "fish")

COMMAND = Command(
    "completion",
    "Print a script that completes commands, options and their values in bash, zsh or fish. It holds TRL's options "
    "too: print it again after an update.",
    (),
    examples=(
        "trl-segment completion bash > ~/.local/share/bash-completion/completions/trl-segment",
        "trl-segment completion zsh > ~/.zfunc/_trl-segment",
        "trl-segment completion fish > ~/.config/fish/completions/trl-segment.fish",
    ),
    usage="|".join(SHELLS),
)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    start(COMMAND, words)
    if len(words) != 1 or words[0] not in SHELLS:
        raise UserError(f"{' '.join(words) or 'nothing'!r} was passed, but one shell is needed: {', '.join(SHELLS)}.")
    try:
        import shtab
    except ImportError as error:
        raise UserError("the script is written with shtab. Install it: pip install shtab") from error
    print(shtab.complete(_all_commands(shtab), words[0]))


def _all_commands(shtab) -> argparse.ArgumentParser:
    """One parser of everything that can stand on a line, as shtab reads it."""
    whole = argparse.ArgumentParser("trl-segment")
    whole.add_argument("--version", action="version", help="Print the version.")
    commands = whole.add_subparsers()
    for name, purpose in COMMANDS.items():
        command = importlib.import_module(f".{name}", __package__).COMMAND
        parser = commands.add_parser(name, help=purpose)
        if name == COMMAND.name:
            parser.add_argument("shell", choices=SHELLS)
            continue
        for _, options in start(command, []).sections():
            for option in options:
                _add(parser, shtab, option)
        for flag, about in OF_EVERY_COMMAND.items():
            if flag == "--config":
                _add(parser, shtab, Option(flag, about))
            else:
                parser.add_argument(flag, action="store_true", help=about)
    return whole


def _add(parser, shtab, option: Option) -> None:
    about = shortened(" ".join(option.help.replace("%%", "%").split()), 80).replace("%", "%%")
    flag = option.nargs == "?"
    choices = ["True", "False"] if flag else option.choices
    # Not "+": behind the first value of a list, options are completed again
    action = parser.add_argument(option.name, nargs="?" if flag else None, choices=choices, help=about)
    if choices is None:
        # Most values are names of files and folders
        action.complete = shtab.FILE


if __name__ == "__main__":
    from .main import run

    run("completion", main)
