"""`trl-segment`: one command per step. Errors of all commands are handled here."""

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Callable

from ..printing import printable, printable_traceback
from ..progress import quiet
from .errors import is_for_users, one_line
from .foreign import without_idle_lines


# Flags of every command that are no options of what it does
_FLAGS = ("--quiet", "--traceback")

COMMANDS = {
    "attribute": "Attribute traces and store the scores",
    "merge": "Bring the stores of independent jobs together",
    "sft": "Fine-tune on the selected segments",
    "evaluate": "Measure accuracy and output length of models on problem sets",
    "generate": "Sample solutions and keep the shortest correct one of each problem",
    "inspect": "Show one trace, in the terminal or as a page: its segments, their scores, kept or dropped",
    "report": "Write a page with figures on a selection's effect on a whole dataset",
    "export": "Write the selection in the form that another trainer reads",
    "quality": "Compare the selection with known roles of segments",
    "faithfulness": "Compare a selection with random segments of the same share: sufficiency, necessity",
    "tune": "Sweep the thresholds over stored scores, or compare stores",
    "completion": "Print a script that completes commands and options in a shell",
    "demo": "Run all of it on a small model and the traces of a toy world",
}


def main(argv: list[str] | None = None) -> None:
    """
    Entry point of `trl-segment`.

    Args:
        argv (`list[str]`, *optional*):
            Arguments, the command first. Defaults to those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # Flags of every command may stand in front of it too
    words = [word for word in argv if word not in _FLAGS]
    if not words or words[0] in ("-h", "--help", "--help-all"):
        print("usage: trl-segment COMMAND [options]\n\ncommands:")
        for name, purpose in COMMANDS.items():
            print(f"  {name:<12} {purpose}")
        print(
            "\n`trl-segment COMMAND --help` lists a command's options with examples, `--config FILE.yaml` reads them "
            "from a file.\n`--quiet` shows results and warnings alone, `--traceback` where an error came from, "
            "`--version` the version."
        )
    elif {"-V", "--version"} & set(words[:2]):
        from .. import __version__

        print(__version__)
    elif words[0] not in COMMANDS:
        print(f"trl-segment: error: {printable(_unknown(words[0]))}", file=sys.stderr)
        raise SystemExit(2)
    else:
        run(words[0], _command(words[0]), [*words[1:], *(flag for flag in _FLAGS if flag in argv)])


def _unknown(word: str) -> str:
    if word.startswith("-"):
        return f"{word!r} stands where the command belongs. `trl-segment --help` lists the commands."
    if close := difflib.get_close_matches(word.lower().replace("_", "-"), COMMANDS, n=2):
        return f"unknown command {word!r}. Did you mean {' or '.join(close)}?"
    return f"unknown command {word!r}. Commands are {', '.join(COMMANDS)}."


def run(command: str, function: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """
    Run a command. An error of the user ends it with one line on stderr; a bug shows its traceback.

    Args:
        command (`str`):
            Its name.
        function (`Callable[[list[str]], None]`):
            Takes the arguments.
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.

    Raises:
        `SystemExit`: With code 2 after an error of the user's, 130 after an interrupt.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    shown = "--traceback" in argv
    formatwarning = warnings.formatwarning
    # Libraries warn about names that they are given
    warnings.formatwarning = lambda *args, **kwargs: printable(formatwarning(*args, **kwargs))
    try:
        with without_idle_lines(), quiet("--quiet" in argv):
            function([word for word in argv if word not in _FLAGS])
        _end_process_group()
    except KeyboardInterrupt as error:
        _fail(f"trl-segment {command}: interrupted", 130, error, shown)
    except BrokenPipeError:
        # The reader of the output has closed it. Python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        if not is_for_users(error):
            # Python prints it, but with whatever stands in its messages
            sys.excepthook = _print_traceback
            raise
        _fail(f"trl-segment {command}: error: {one_line(error)}", 2, error, shown)
    finally:
        warnings.formatwarning = formatwarning


def _end_process_group():
    """
    Leave the other processes in good order. Gloo's threads abort a process that ends with a living group now and then,
    and the launcher then takes a run for failed whose files are all written.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _fail(line, code, error, shown):
    # A bar that is still open would stand in the same line
    for bar in list(getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())):
        bar.close()
    if shown:
        print(printable_traceback(error), end="", file=sys.stderr)
    print(printable(line), file=sys.stderr, flush=True)
    raise SystemExit(code) from error


def _print_traceback(kind, error, trace):
    print(printable_traceback(error), end="", file=sys.stderr)


def _command(name: str) -> Callable[[list[str]], None]:
    """A command. Its module is imported when it runs, so that errors of the import are handled too."""

    def command(argv: list[str]) -> None:
        # Only the command's own module, since some need no torch
        importlib.import_module(f".{name}", __package__).main(argv)

    return command


if __name__ == "__main__":
    main()
