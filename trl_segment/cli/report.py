"""`trl-segment report`: what a selection does to a whole dataset, as a page with figures."""

import sys
from dataclasses import dataclass, field, fields

from trl import ScriptArguments, TrlParser

from ..attribution.hub import open_store
from ..progress import progress_bar
from ..selection import SelectionConfig
from ..traces import TraceConfig, build_trace, row_name
from .data import load_train_split


@dataclass
class ReportArguments(SelectionConfig):
    """
    Arguments of `trl-segment report` besides TRL's. Extends [`~trl_segment.SelectionConfig`].

    Parameters:
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store, or a dataset on the Hub. It also says how traces are cut.
        output_dir (`str`, *optional*, defaults to `"report"`):
            Folder for the page, the figures and the numbers.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
    """

    attributions: str = field(default="attributions", metadata={"help": "Folder of the attribution store."})
    output_dir: str = field(default="report", metadata={"help": "Folder for the page, the figures and the numbers."})
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((ScriptArguments, ReportArguments), prog="trl-segment report")
    script_args, args = parser.parse_args_and_config(argv)
    if args.selection in ("random", "all"):
        parser.error(f"--selection {args.selection} has nothing to do with the scores, which the report is on")
    try:
        from ..report.dataset_page import write_report
        from ..report.statistics import collect_statistics
    except ImportError as error:
        sys.exit(f"`trl-segment report` needs {error.name}. Install it: pip install jinja2 matplotlib")
    store = open_store(args.attributions)
    if len(store) == 0:
        sys.exit(
            f"The store at {args.attributions!r} holds no trace, so there is nothing to report. Run `trl-segment "
            "attribute` with it as `--attributions` first."
        )
    if script_args.dataset_name:
        dataset = load_train_split(script_args)
        rows, total = _rows_of_dataset(dataset, store, args), None if script_args.dataset_streaming else len(dataset)
    else:
        rows, total = ((row.name, None, row, None) for row in store.values()), len(store)
    statistics = collect_statistics(progress_bar(rows, "Reading", total=total), args)
    found = statistics.traces + sum(map(len, statistics.skipped.values()))
    if not found:
        sys.exit(
            f"None of the {len(statistics.missing):,} rows of {script_args.dataset_name!r} is in the store at "
            f"{args.attributions!r}, which holds {len(store):,} traces: it was made from another dataset, or the rows "
            "have changed since. Run `trl-segment attribute` on this dataset, or leave `--dataset_name` out to report "
            "on the store alone."
        )
    page = write_report(statistics, args.output_dir, script_args.dataset_name or args.attributions, store.settings)
    kept, tokens = statistics.segments, statistics.tokens
    print(
        f"{statistics.traces:,} traces: {kept[0]:,} of {kept.sum():,} segments and {tokens[0]:,} of {tokens.sum():,} "
        f"tokens kept, {found - statistics.traces:,} traces trained in full, {len(statistics.missing):,} not in the "
        f"store.\nOpen {page} in a browser."
    )


def _rows_of_dataset(dataset, store, args):
    config = TraceConfig(**{name.name: store.settings[name.name] for name in fields(TraceConfig)})
    for index, row in enumerate(dataset):
        trace = build_trace(row, config, text_column=args.dataset_text_field)
        yield row_name(row, index), trace, store.get(trace.key), row.get("roles")


if __name__ == "__main__":
    main()
