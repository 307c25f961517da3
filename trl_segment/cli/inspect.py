"""`trl-segment inspect`: one trace in the terminal."""

import sys
from dataclasses import dataclass, field, fields

from trl import ScriptArguments, TrlParser

from ..attribution.hub import open_store
from ..selection import SelectionConfig
from ..traces import TraceConfig, build_trace, row_name
from .data import load_train_split


@dataclass
class InspectArguments(SelectionConfig):
    """
    Arguments of `trl-segment inspect` besides TRL's. Extends [`~trl_segment.SelectionConfig`].

    Parameters:
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store. It also says how traces are cut.
        trace (`str`, *optional*, defaults to `"0"`):
            `id` of the row, or its number.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
        color (`bool`, *optional*):
            Whether to color. Defaults to `True` on a terminal.
    """

    attributions: str = field(default="attributions", metadata={"help": "Folder of the attribution store."})
    trace: str = field(default="0", metadata={"help": "`id` of the row, or its number."})
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})
    color: bool | None = field(default=None, metadata={"help": "Whether to color. Default: on a terminal."})


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((ScriptArguments, InspectArguments), prog="trl-segment inspect")
    script_args, args = parser.parse_args_and_config(argv)
    try:
        from rich.console import Console

        from ..report.terminal import render_trace
    except ImportError:
        sys.exit("`trl-segment inspect` prints with rich. Install it: pip install rich")

    store = open_store(args.attributions)
    config = TraceConfig(**{name.name: store.settings[name.name] for name in fields(TraceConfig)})
    dataset = load_train_split(script_args)
    name, row = _find_row(dataset, args.trace)
    trace = build_trace(row, config, text_column=args.dataset_text_field)
    if trace.key not in store:
        sys.exit(
            f"{name} is not in the store at {args.attributions!r}. It may belong to another dataset, or the row has "
            "changed since. Run `trl-segment attribute` on this dataset."
        )
    # Of a narrower terminal the table would lose columns
    console = Console(force_terminal=args.color, width=max(100, Console().width))
    console.print(render_trace(name, trace, store[trace.key], args))


def _find_row(dataset, wanted):
    if "id" in dataset.column_names:
        ids = [str(value) for value in dataset["id"]]
        if wanted in ids:
            index = ids.index(wanted)
            return wanted, dataset[index]
    if not wanted.isdigit() or int(wanted) >= len(dataset):
        sys.exit(f"No trace {wanted!r}: no row has this `id`, and rows are numbered 0 to {len(dataset) - 1}.")
    return row_name(dataset[int(wanted)], int(wanted)), dataset[int(wanted)]


if __name__ == "__main__":
    main()
