"""The parser of a command line: TRL's, with options in groups and a help of one line per option."""

import argparse
import difflib
import itertools
import math
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, get_args, get_type_hints

from trl.scripts.utils import TrlParser

from .errors import UserError


# An infinite bound leaves gradients as they are, and their norm is still logged
_MAY_BE_INFINITE = {"max_grad_norm"}


@dataclass(frozen=True)
class Group:
    """
    Options under a heading.

    Args:
        title (`str`):
            The heading.
        arguments (`type`):
            The dataclass that the options fill.
        without (`tuple[str, ...]`, *optional*):
            Fields that have no effect in this command: they keep their defaults, and there is no option.
        brief (`bool`, *optional*, defaults to `False`):
            Whether the help only names the options, which another command explains.
    """

    title: str
    arguments: type
    without: tuple[str, ...] = ()
    brief: bool = False


class CommandParser(TrlParser):
    """
    Parser of a command.

    Args:
        command (`str`):
            Its name.
        purpose (`str`):
            Its purpose, in a sentence.
        *groups ([`Group`]):
            Its options. Parsing returns one object for each group.

    Attributes:
        given (`set[str]`):
            Options that were set, on the command line or in the file of `--config`.
    """

    def __init__(self, command: str, purpose: str, *groups: Group):
        super().__init__(
            (),
            prog=f"trl-segment {command}",
            usage=f"trl-segment {command} [options]",
            description=purpose,
            epilog="--config FILE.yaml reads options from a file, --traceback shows where an error came from.",
            formatter_class=_OneLineHelp,
            allow_abbrev=False,
        )
        self._option_string_actions["--help"].help = argparse.SUPPRESS
        self.given: set[str] = set()
        self.dataclass_types = [group.arguments for group in groups]
        self._floats = {
            name
            for group in groups
            for name, hint in get_type_hints(group.arguments).items()
            if float in (hint, *get_args(hint), *itertools.chain.from_iterable(map(get_args, get_args(hint))))
        }
        for group in groups:
            self._add_group(group)
        # Both are taken out of the line before it is parsed; here they only become known names
        self.add_argument("--config", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def _add_group(self, group):
        options = self._optionals._group_actions
        known = len(options)
        self._add_dataclass_arguments(group.arguments)
        added = options[known:]
        del options[known:]
        for action in [action for action in added if action.dest in group.without]:
            added.remove(action)
            self._remove_option(action)
        names = (action.option_strings[0] for action in added) if group.brief else ()
        heading = self.add_argument_group(group.title, ", ".join(names) or None)
        if not group.brief:
            heading._group_actions += added

    def _remove_option(self, action):
        self._actions.remove(action)
        for option in action.option_strings:
            del self._option_string_actions[option]
        # The dataclass is still filled
        self.set_defaults(**{action.dest: action.default})

    def move(self, names: Iterable[str], title: str) -> None:
        """
        Show options under another heading.

        Args:
            names (`Iterable[str]`):
                The options.
            title (`str`):
                The heading, which is added at the end.
        """
        heading, names = self.add_argument_group(title), set(names)
        for group in self._action_groups[:-1]:
            heading._group_actions += [action for action in group._group_actions if action.dest in names]
            group._group_actions[:] = [action for action in group._group_actions if action.dest not in names]

    def set_defaults_with_config(self, **config: Any) -> list[str]:
        """Take the options of a file, checked as those of the line are."""
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


class _OneLineHelp(argparse.HelpFormatter):
    """One line per option: its name, the start of its help as far as it fits, its default."""

    def __init__(self, prog: str):
        width = min(max(shutil.get_terminal_size().columns, 80), 120)
        super().__init__(prog, max_help_position=30, width=width)

    def _format_action(self, action):
        if action.option_strings[0].startswith("--no_"):
            return ""  # of a flag that is on by default
        start = f"  {action.option_strings[0]:<28} "
        return f"{start}{_summary(action, self._width - len(start))}\n"


def _summary(action, room: int) -> str:
    """Help, choices and default of an option in one line."""
    silent = action.default in (None, argparse.SUPPRESS) or action.default is False or isinstance(action.default, list)
    shown = "" if silent else str(action.default)
    default = f" [{shown}]" if shown and "\n" not in shown and len(shown) <= 30 else ""
    text = " ".join((action.help or "").split())
    choices = "" if action.choices is None else f" {{{','.join(map(str, action.choices))}}}"
    # A short text is shown whole, a long one is cut so that choices have room
    most = room - len(default) - (len(text) if len(text) + len(default) <= room else 40)
    if len(choices) > most:
        choices = f"{choices[: most - 5].rpartition(',')[0]},...}}" if most > 20 else ""
    start = _cut(text, room - len(choices) - len(default))
    if start.endswith("...") and choices:
        start, choices = _cut(text, room - len(default)), ""
    return start + choices + default


def _cut(text: str, room: int) -> str:
    """The start of a text that fits: its first sentences, or else its first clauses."""
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
