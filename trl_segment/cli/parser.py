"""The parser of a command line: TRL's, with errors of one line that say what to do."""

import argparse
import dataclasses
import difflib
import itertools
import math
import sys
from collections.abc import Iterable
from typing import Any, NoReturn, get_args, get_type_hints

from trl.scripts.utils import TrlParser

from .errors import UserError
from .help import whole_help_text
from .options import OF_EVERY_COMMAND, Command, Option, load_class


# An infinite bound leaves gradients as they are, and their norm is still logged
_MAY_BE_INFINITE = {"max_grad_norm"}


class CommandParser(TrlParser):
    """
    Parser of a command. [`~trl_segment.cli.start.start`] makes it where there is something to parse.

    Args:
        command ([`~trl_segment.cli.options.Command`]):
            The command. Parsing returns one object for each of its groups.

    Attributes:
        given (`set[str]`):
            Options that were set, on the command line or in the file of `--config`.
    """

    def __init__(self, command: Command):
        # Help is asked for before there is a parser
        super().__init__((), prog=f"trl-segment {command.name}", add_help=False, allow_abbrev=False)
        self.command = command
        self.given: set[str] = set()
        self.dataclass_types = [load_class(group.arguments) for group in command.groups]
        self._floats = {
            name
            for arguments in self.dataclass_types
            for name, hint in get_type_hints(arguments).items()
            if float in (hint, *get_args(hint), *itertools.chain.from_iterable(map(get_args, get_args(hint))))
        }
        self._sections: list[tuple[str, list[argparse.Action]]] = []
        for group, arguments in zip(command.groups, self.dataclass_types, strict=True):
            known = len(self._actions)
            self._add_dataclass_arguments(arguments)
            for action in [action for action in self._actions[known:] if action.dest in group.without]:
                self._remove_option(action)
            self._sections.append((group.title, self._actions[known:]))
        # They are taken out of the line before that is parsed; here they only become known names
        for name in ("--help", *OF_EVERY_COMMAND):
            self.add_argument(name, action="store_true", default=argparse.SUPPRESS)

    def _remove_option(self, action):
        self._actions.remove(action)
        for option in action.option_strings:
            del self._option_string_actions[option]
        # The dataclass is still filled
        self.set_defaults(**{action.dest: action.default})

    def sections(self) -> list[tuple[str, list[Option]]]:
        """Headings and their options, those of TRL among them."""
        sections, inherited = [], []
        for group, (title, actions) in zip(self.command.groups, self._sections, strict=True):
            theirs = set()
            if group.inherited is not None:
                heading, arguments = group.inherited
                theirs = {entry.name for entry in dataclasses.fields(load_class(arguments))}
                inherited.append((heading, [_option(action) for action in actions if action.dest in theirs]))
            sections.append((title, [_option(action) for action in actions if action.dest not in theirs]))
        # A flag that is on by default has a second option, which turns it off
        return [
            (title, [option for option in options if not option.name.startswith("--no_")])
            for title, options in (*sections, *inherited)
        ]

    def format_help(self) -> str:
        """All that there is to say of the command's options."""
        return whole_help_text(self.command, self.sections())

    def set_defaults_with_config(self, **config: Any) -> list[str]:
        """Take the options of a file, checked as those of the line are."""
        if found := sorted(config.keys() & {name[2:] for name in OF_EVERY_COMMAND}):
            self.error(f"`{found[0]}` stands in the file of --config, but belongs on the command line: --{found[0]}")
        for action in self._actions:
            if action.dest not in config:
                continue
            self.given.add(action.dest)
            value = config[action.dest]
            if action.nargs == "+" and value is not None and not isinstance(value, list):
                value = config[action.dest] = [value]
            for item in value if isinstance(value, list) else [value]:
                if action.choices is not None and item is not None and item not in action.choices:
                    self.error(
                        f"`{action.dest}: {item}` in the file of --config is not one of "
                        f"{', '.join(map(str, action.choices))}"
                    )
        return super().set_defaults_with_config(**config)

    def parse(self, argv: Iterable[str] | None = None) -> list[Any]:
        """
        Parse a command line.

        Args:
            argv (`Iterable[str]`, *optional*):
                Arguments. Defaults to those of the process.

        Returns:
            `list`: One object for each group.

        Raises:
            `UserError`: If an option is unknown, or its value cannot be read.
        """
        *parsed, from_file, from_line = self.parse_known(argv)
        self.refuse_unknown([*from_file, *from_line])
        return parsed

    def parse_known(self, argv: Iterable[str] | None = None) -> list[Any]:
        """
        Parse a command line on which other options may stand.

        Args:
            argv (`Iterable[str]`, *optional*):
                Arguments. Defaults to those of the process.

        Returns:
            `list`: One object for each group, then the words of the file, and those of the line, that are not this
            command's.
        """
        words = []
        for word in sys.argv[1:] if argv is None else argv:
            words += word.split("=", 1) if word.startswith("--config=") else [word]
        if words[-1:] == ["--config"]:
            self.error("--config needs a file")
        for word in words:
            if (action := self._option_string_actions.get(word.split("=")[0])) is not None:
                self.given.add(action.dest)
        return list(self.parse_args_and_config(words, return_remaining_strings=True, separate_remaining_strings=True))

    def parse_known_args(self, args=None, namespace=None):
        """As [`~argparse.ArgumentParser`], of numbers that are some: also TRL's own take NaN without a word."""
        namespace, words = super().parse_known_args(args, namespace)
        for name in sorted(self._floats & vars(namespace).keys()):
            value = getattr(namespace, name)
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    if name in _MAY_BE_INFINITE and number == math.inf:
                        continue
                    self.error(f"--{name} {number} is no finite number. Pass one, or leave the option out")
        return namespace, words

    def refuse_unknown(self, words: list[str], known: Iterable[str] = ()) -> None:
        """
        Refuse words that no option takes.

        Args:
            words (`list[str]`):
                Words that are left.
            known (`Iterable[str]`, *optional*):
                Options of another program that are taken too.

        Raises:
            `UserError`: If there is one. It names options that are spelled alike.
        """
        options = [word.split("=")[0] for word in words if word.startswith("--")]
        unknown = [option for option in options if option not in set(known)]
        if unknown:
            names = [option for option in self._option_string_actions if "-" not in option[2:]]
            close = difflib.get_close_matches("--" + unknown[0][2:].replace("-", "_"), [*names, *known], n=2)
            hint = f" Did you mean {' or '.join(close)}?" if close else " `--help` lists those that there are."
            self.error(f"unknown option {unknown[0]}.{hint}")
        if words and not options:
            self.error(f"unexpected {words[0]!r}: every value belongs to an option")

    def refuse(self, names: Iterable[str], because: str) -> None:
        """
        Refuse options that were set although they have no effect.

        Args:
            names (`Iterable[str]`):
                Options without an effect.
            because (`str`):
                Why they have none. It follows "has no effect".

        Raises:
            `UserError`: If one of them was set.
        """
        found = sorted(self.given & set(names))
        if found:
            has = "has" if len(found) == 1 else "have"
            self.error(f"{', '.join(f'--{name}' for name in found)} {has} no effect {because}")

    def require(self, name: str, value: Any, meaning: str) -> None:
        """
        Refuse a line without an option.

        Args:
            name (`str`):
                The option.
            value (`Any`):
                Its value.
            meaning (`str`):
                The thing that it names.

        Raises:
            `UserError`: If there is no value.
        """
        if not value:
            self.error(f"--{name} is required: {meaning}")

    def error(self, message: str) -> NoReturn:
        """Refuse the line."""
        raise UserError(message)


def _option(action: argparse.Action) -> Option:
    choices = None if action.choices is None else [str(choice) for choice in action.choices]
    return Option(action.option_strings[0], action.help or "", action.default, choices, action.nargs)
