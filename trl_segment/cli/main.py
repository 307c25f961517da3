"""`trl-segment`: one command per step."""

import importlib
import sys


_COMMANDS = {
    "attribute": "Attribute traces and store the scores",
    "merge": "Bring the stores of independent jobs together",
    "sft": "Fine-tune on the selected segments",
    "evaluate": "Accuracy and output length of models on problem sets",
    "generate": "Sample solutions, keep the shortest correct one of each problem",
    "inspect": "Show one trace, in the terminal or as a page: its segments, their scores, kept or dropped",
    "report": "Write a page with figures on what a selection does to a whole dataset",
    "quality": "Compare the selection with known roles of segments",
    "tune": "Sweep the thresholds over stored scores, compare stores",
    "demo": "Run all of it on a small model and the traces of a toy world",
}


def main(argv: list[str] | None = None) -> None:
    """
    Entry point of `trl-segment`.

    Args:
        argv (`list[str]`, *optional*):
            Arguments, the command first. Defaults to those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: trl-segment COMMAND [options]\n\ncommands:")
        for name, purpose in _COMMANDS.items():
            print(f"  {name:<10} {purpose}")
        print("\n`trl-segment COMMAND --help` lists a command's options; `--config FILE.yaml` reads them from a file.")
    elif argv[0] in ("-V", "--version"):
        from .. import __version__

        print(__version__)
    elif argv[0] not in _COMMANDS:
        sys.exit(f"trl-segment: unknown command {argv[0]!r}. Commands are {', '.join(_COMMANDS)}.")
    else:
        # Only the command's own module, since some need no torch
        importlib.import_module(f".{argv[0]}", __package__).main(argv[1:])


if __name__ == "__main__":
    main()
