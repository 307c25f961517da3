"""`trl-segment attribute`: attribute the traces of a dataset and store the scores."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from ..attribution import AttributionConfig
from ..selection import SelectionConfig
from ..store import AttributionStore, exclusive_run
from ..traces import row_name
from .arguments import AttributionModelArguments, StreamingDatasetArguments
from .data import check_readings, load_train_split, trace_reader
from .options import Command, Group
from .output import count, note
from .start import start


@dataclass
class AttributeArguments:
    """
    Arguments of `trl-segment attribute` besides those of the dataset, the model, the attribution and the selection.

    Parameters:
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store. Traces that it already holds cost nothing.
        shard (`str`, *optional*):
            `"3/16"` attributes the third of sixteen parts of the dataset, for independent jobs without a common
            launcher. They may share a store, or each have one, for `trl-segment merge`.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print the plan of the run and a cost estimate, and stop. No weight is loaded.
        progress (`bool`, *optional*):
            Whether to show a progress bar. Defaults to `True` on a terminal.

    Raises:
        `ValueError`: If there is no such shard.
    """

    attributions: str = field(
        default="attributions", metadata={"help": "Folder of the store. Traces that it already holds cost nothing."}
    )
    shard: str | None = field(
        default=None, metadata={"help": "'3/16' attributes the third of sixteen parts of the dataset."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run and a cost estimate, and stop."})
    progress: bool | None = field(
        default=None, metadata={"help": "Whether to show a progress bar. By default on a terminal."}
    )

    def __post_init__(self):
        self.share: tuple[int, int] | None = None
        if self.shard is not None:
            number, _, parts = self.shard.partition("/")
            if not re.fullmatch(r"\d+/\d+", self.shard) or not 1 <= int(number) <= int(parts):
                raise ValueError(
                    f"`shard` must be a part and the number of parts, '1/16' to '16/16', but {self.shard!r} was "
                    "passed."
                )
            self.share = int(number), int(parts)


# Training alone reads `transition`, and a draw by `seed` has nothing to do with scores
_WITHOUT = ("transition", "seed")


COMMAND = Command(
    "attribute",
    "Attribute the traces of a dataset and store the scores.",
    (
        Group("dataset", StreamingDatasetArguments),
        Group("store and run", AttributeArguments),
        Group("attribution", AttributionConfig),
        Group("model", AttributionModelArguments),
        Group(
            "selection that the scores are for, only with --attribution_stop decision", SelectionConfig, _WITHOUT, True
        ),
    ),
    examples=(
        "trl-segment attribute --model_name_or_path MODEL --dataset_name traces.jsonl --attributions scores --dry_run",
        "trl-segment attribute --model_name_or_path MODEL --dataset_name traces.jsonl --attributions scores",
    ),
)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = start(COMMAND, argv)
    data_args, args, config, model_args, selection = parser.parse(argv)
    parser.require("model_name_or_path", model_args.model_name_or_path, "the model whose answer is attributed")
    # Torch is loaded once there is something to do
    from ..models import process_state
    from .dry_run import plan_attribute

    _refuse_idle(parser, config)
    # Started by `accelerate launch` or `torchrun`, every process takes its share of the traces
    state = process_state()
    if args.dry_run:
        plan_attribute(data_args, args, config, selection, model_args, state)
        return
    with exclusive_run(args.attributions, args.share) if state.is_main_process else contextlib.nullcontext():
        _attribute(parser, data_args, args, config, selection, model_args, state)


def _refuse_idle(parser, config: AttributionConfig) -> None:
    """Refuse options that the scorer does not read."""
    from ..attribution import SCORERS

    scorer = config.attribution_scorer
    read = {f"attribution_{name}" for name in (*SCORERS[scorer].options, "scorer", "max_tokens", "strict", "preset")}
    if SCORERS[scorer].token_attributions:
        read.add("attribution_compile")
    parser.refuse(
        {entry.name for entry in fields(AttributionConfig) if entry.name.startswith("attribution_")} - read,
        f"on --attribution_scorer {scorer}",
    )
    if "stop" not in SCORERS[scorer].options or config.attribution_stop != "decision":
        parser.refuse(
            {entry.name for entry in fields(SelectionConfig)},
            "on the scores: thresholds are chosen later. Only --attribution_stop decision reads them",
        )


def _attribute(parser, data_args, args, config, selection, model_args, state) -> None:
    from ..attribution import attribute_traces, attribution_settings
    from ..attribution.sharing import describe_balance, share_of_rows

    dataset = load_train_split(data_args, data_args.dataset_streaming)
    if config.attribution_rule == "density" and state.num_processes > 1:
        parser.error("--attribution_rule density learns from the first traces of one process: start one process")
    read = trace_reader(config, data_args.dataset_text_field)
    check_readings(dataset, read)
    model, tokenizer = model_args.load(model_args.precision)
    settings = attribution_settings(model, tokenizer, config, selection=selection)
    store = AttributionStore(args.attributions, settings)
    if config.attribution_rule == "density" and args.share and store.read_array("density") is None:
        parser.error(
            "--attribution_rule density learns from the first traces of the dataset, and each shard would learn "
            "something else. Attribute a few traces into this store without --shard first, then the shards"
        )
    shard, shards = args.share or (1, 1)
    if data_args.dataset_streaming:
        # Every process of every job has a part
        part, parts = (shard - 1) + shards * state.process_index, shards * state.num_processes
        total, rows = None, _every(dataset, part, parts)
    else:

        def trace_of(index):
            return read(dataset[index], row_name(dataset[index], index))

        mine = share_of_rows(range(shard - 1, len(dataset), shards), trace_of, store)
        total, rows = len(mine), ((index, dataset[index]) for index in mine)
    traces = ((name, read(row, name)) for name, row in ((row_name(row, index), row) for index, row in rows))
    progress = args.progress if state.is_main_process else False
    summary = attribute_traces(traces, model, tokenizer, config, store, total, progress, selection)
    skipped = sum(map(len, summary.skipped.values()))
    share = "" if state.num_processes == 1 else f"Process {state.process_index + 1} of {state.num_processes}: "
    note(
        f"{share}{count(summary.traces, 'trace')}: {summary.attributed} attributed with {summary.evaluations:,} "
        f"gradient evaluations, {summary.reused} read from the store, {summary.repeated} repeated, {skipped} not "
        "attributable."
    )
    if config.answer_statements != "visible" and summary.attributed:
        note(f"{share}Statements of the answer were hidden in {summary.hidden} of {summary.attributed} traces.")
    if summary.reliability.traces:
        note(f"{share}Attributions settled for {summary.reliability.describe()}.")
    balance = describe_balance(summary)
    state.wait_for_everyone()
    if state.is_main_process:
        if balance:
            note(balance)
        AttributionStore(args.attributions, settings).compact()
        note(f"Stored in {args.attributions}")
    if config.attribution_strict:
        summary.reliability.check(settings.options)


def _every(dataset, first: int, step: int) -> Iterator[tuple[int, dict]]:
    """Every `step`-th row from the `first` on, with its number."""
    return ((index, row) for index, row in enumerate(dataset) if index % step == first)


if __name__ == "__main__":
    from .main import run

    run("attribute", main)
