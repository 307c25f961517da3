"""`trl-segment report`: the effect of a selection on a whole dataset, as a page with figures."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from ..evaluation.faithfulness import describe_faithfulness
from ..evaluation.gains import CONFIDENCES
from ..progress import progress_bar
from ..selection import SelectionConfig
from ..store import open_store
from .arguments import ModelArguments, StoreArguments, StreamingDatasetArguments
from .data import StoreReader, load_train_split, roles_of, spread_evenly
from .errors import UserError
from .faithfulness import Measurement, MeasurementArguments
from .options import Command, Group
from .output import count, note, warn
from .start import start


@dataclass
class ReportArguments:
    """
    Arguments of `trl-segment report` besides those of the store, the dataset and the selection.

    Parameters:
        output_dir (`str`, *optional*, defaults to `"report"`):
            Folder for the pages, the figures and the numbers.
        trace_pages (`int`, *optional*, defaults to `100`):
            Largest number of traces to write a page of, spread evenly over the dataset (of a streamed one the first).
            The list of traces names the others too. 0 writes none.

    Raises:
        `ValueError`: If `trace_pages` is negative.
    """

    output_dir: str = field(default="report", metadata={"help": "Folder for the pages, the figures and the numbers."})
    trace_pages: int = field(
        default=100,
        metadata={"help": "Largest number of traces to write a page of, spread evenly over the dataset; 0 for none."},
    )

    def __post_init__(self) -> None:
        if self.trace_pages < 0:
            raise ValueError(f"`trace_pages` must be at least 0, but {self.trace_pages} was passed.")


COMMAND = Command(
    "report",
    "Write pages on what a selection does to a dataset: figures, a list of its traces, and traces one by one.",
    (
        Group("store", StoreArguments),
        Group("dataset: without one the report is on the store alone, which holds no text", StreamingDatasetArguments),
        Group("output", ReportArguments),
        Group("model: with one the report compares the selection with random segments", ModelArguments, brief=True),
        Group("how that is measured, with a model", MeasurementArguments),
        # The seed draws the random segments that the selection is compared with
        Group("selection", SelectionConfig, without=("transition",)),
    ),
    examples=("trl-segment report --dataset_name traces.jsonl --attributions scores --output_dir report",),
)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = start(COMMAND, argv)
    store_args, data_args, args, model_args, measurement_args, selection = parser.parse(argv)
    if selection.selection in ("random", "all"):
        parser.error(f"--selection {selection.selection} does not depend on the scores, and the report is on them")
    try:
        from ..report.dataset_page import list_notes, write_report
        from ..report.statistics import collect_statistics
        from ..report.trace_list import TracePages
    except ImportError as error:
        raise UserError(f"the report needs {error.name}. Install it: pip install jinja2 matplotlib") from error
    name, dataset_name = store_args.attributions, data_args.dataset_name
    if model_args.model_name_or_path is None:
        options = (*fields(ModelArguments), *fields(MeasurementArguments))
        parser.refuse({"seed", *(option.name for option in options)}, "without --model_name_or_path")
    elif not dataset_name:
        parser.error("--model_name_or_path needs --dataset_name: the store holds no text for the model to read")
    if dataset_name:
        reader = StoreReader(name, data_args.dataset_text_field, store_args.segmenter)
        store = reader.store
    else:
        parser.refuse(
            {
                "segmenter",
                "dataset_config",
                "dataset_train_split",
                "dataset_text_field",
                "dataset_streaming",
                "trace_pages",
            },
            "without --dataset_name",
        )
        store = open_store(name)
    if len(store) == 0:
        raise UserError(
            f"the store at {name!r} holds no trace. Run `trl-segment attribute` with it as --attributions first."
        )
    measurement = None
    if dataset_name:
        dataset = load_train_split(data_args, data_args.dataset_streaming)
        total = None if data_args.dataset_streaming else len(dataset)
        found = reader.all(dataset)
        if model_args.model_name_or_path is not None:
            measurement = Measurement(reader, selection, measurement_args, model_args, Path(args.output_dir))
            found = measurement.watch(found, None if total is None else measurement_args.spread(total))
        rows = ((row.name, row.trace, row.stored, roles_of(row.row)) for row in found)
        most = args.trace_pages
        wanted = range(most) if total is None else set(spread_evenly(most, total))
        pages = TracePages(args.output_dir, wanted, selection, store.settings.describe())
        rows = pages.watch(rows)
    else:
        total, rows = len(store), ((row.name, None, row, None) for row in store.values())
        # No text, no pages; but a run before this one may have left some
        pages = TracePages(args.output_dir, (), selection)
    statistics = collect_statistics(progress_bar(rows, "Reading", total=total), selection)
    skipped = sum(map(len, statistics.skipped.values()))
    if not statistics.traces + skipped:
        raise UserError(
            f"None of the {len(statistics.missing):,} rows of {dataset_name!r} is in the store at {name!r}, which "
            f"holds {count(len(store), 'trace')}: it was made from another dataset, or the rows have changed since. "
            "Run `trl-segment attribute` on this dataset, or leave --dataset_name out to report on the store alone."
        )
    if measurement is not None:
        measurement.close()
        reader.say_left_out()
        statistics.faithfulness = measurement.summary()
        note(describe_faithfulness(statistics.faithfulness, CONFIDENCES[measurement_args.confidence]))
    page = write_report(statistics, args.output_dir, dataset_name or name, store.settings.describe(), pages.written)
    for line in list_notes(statistics, len(pages.written)):
        warn(f"trl-segment report: {line}")
    kept, tokens = statistics.segments, statistics.tokens
    note(
        f"{count(statistics.traces, 'trace')}: {kept[0]:,} of {kept.sum():,} segments and {tokens[0]:,} of "
        f"{tokens.sum():,} tokens kept. {count(skipped, 'trace')} trained in full, {len(statistics.missing):,} not in "
        "the store.",
        f"Open {page} in a browser.",
    )


if __name__ == "__main__":
    from .main import run

    run("report", main)
