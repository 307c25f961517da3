"""`trl-segment attribute`: attribute the traces of a dataset and store the scores."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from trl import ModelConfig, ScriptArguments, TrlParser, get_quantization_config

from ..attribution import AttributionConfig, AttributionStore, attribute_traces, attribution_settings
from ..attribution.loading import load_attribution_model, process_state
from ..attribution.runner import describe_balance, share_of_rows
from ..attribution.store import exclusive_run
from ..selection import SelectionConfig
from ..traces import build_trace, row_name
from .data import load_train_split
from .dry_run import plan_attribute


@dataclass
class AttributeArguments(SelectionConfig, AttributionConfig):
    """
    Arguments of `trl-segment attribute` besides TRL's. Extends [`~trl_segment.AttributionConfig`], and
    [`~trl_segment.SelectionConfig`], whose thresholds count only for `attribution_stop="decision"`.

    Parameters:
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store. Traces that it already holds cost nothing.
        shard (`str`, *optional*):
            `"3/16"` attributes the third of sixteen parts of the dataset, for independent jobs without a common
            launcher. They may share a store, or each have one, for `trl-segment merge`.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print what would be done and a cost estimate, and stop. No weight is loaded.
        progress (`bool`, *optional*):
            Whether to show a progress bar. Defaults to `True` on a terminal.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
        chat_template_path (`str`, *optional*):
            Jinja file to use in place of the tokenizer's chat template.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run.
    """

    attributions: str = field(
        default="attributions", metadata={"help": "Folder of the store. Traces that it already holds cost nothing."}
    )
    shard: str | None = field(
        default=None,
        metadata={
            "help": "'3/16' attributes the third of sixteen parts of the dataset. Independent jobs may share a store, "
            "or each have one, for `trl-segment merge`."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and a cost estimate, and stop."})
    progress: bool | None = field(
        default=None, metadata={"help": "Whether to show a progress bar. Default: on a terminal."}
    )
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})

    def __post_init__(self):
        super().__post_init__()
        self.share: tuple[int, int] | None = None
        if self.shard is not None:
            number, _, count = self.shard.partition("/")
            if not re.fullmatch(r"\d+/\d+", self.shard) or not 1 <= int(number) <= int(count):
                raise ValueError(
                    f"`shard` must be a part and the number of parts, '1/16' to '16/16', but {self.shard!r} was "
                    "passed."
                )
            self.share = int(number), int(count)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((ScriptArguments, AttributeArguments, ModelConfig), prog="trl-segment attribute")
    script_args, args, model_args = parser.parse_args_and_config(argv)
    if not model_args.model_name_or_path:
        parser.error("--model_name_or_path is required: the model whose answer is attributed")
    # Started by `accelerate launch` or `torchrun`, every process takes its share of the traces
    state = process_state()
    if args.dry_run:
        plan_attribute(script_args, args, model_args, state)
        return
    with exclusive_run(args.attributions, args.share) if state.is_main_process else contextlib.nullcontext():
        _run(parser, script_args, args, model_args, state)


def _run(parser, script_args, args, model_args, state) -> None:
    dataset = load_train_split(script_args)
    model, tokenizer = load_attribution_model(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        chat_template_path=args.chat_template_path,
        trust_remote_code=args.trust_remote_code,
    )
    if args.attribution_rule == "density" and state.num_processes > 1:
        parser.error("--attribution_rule density learns from the first traces of one process: start one process")
    settings = attribution_settings(model, tokenizer, args)
    store = AttributionStore(args.attributions, settings)
    if args.attribution_rule == "density" and args.share and store.read_array("density") is None:
        parser.error(
            "--attribution_rule density learns from the first traces of the dataset, and each shard would learn "
            "something else. Attribute a few traces into this store without --shard first, then the shards"
        )
    shard, shards = args.share or (1, 1)

    def read(row):
        return build_trace(row, args, text_column=args.dataset_text_field)

    if script_args.dataset_streaming:
        # Every process of every job has a part
        part, parts = (shard - 1) + shards * state.process_index, shards * state.num_processes
        total, rows = None, _every(dataset, part, parts)
    else:
        mine = share_of_rows(range(shard - 1, len(dataset), shards), lambda index: read(dataset[index]), store)
        total, rows = len(mine), ((index, dataset[index]) for index in mine)
    traces = ((row_name(row, index), read(row)) for index, row in rows)
    progress = args.progress if state.is_main_process else False
    summary = attribute_traces(traces, model, tokenizer, args, store, total, progress)
    skipped = sum(map(len, summary.skipped.values()))
    share = "" if state.num_processes == 1 else f"Process {state.process_index + 1} of {state.num_processes}: "
    print(
        f"{share}{summary.traces} traces: {summary.attributed} attributed with {summary.evaluations:,} gradient "
        f"evaluations, {summary.reused} read from the store, {summary.repeated} repeated, {skipped} not attributable."
    )
    balance = describe_balance(summary)
    state.wait_for_everyone()
    if state.is_main_process:
        if balance:
            print(balance)
        AttributionStore(args.attributions, settings).compact()
        print(f"Stored in {args.attributions}")


def _every(dataset, first: int, step: int) -> Iterator[tuple[int, dict]]:
    """Every `step`-th row from the `first` on, with its number."""
    if hasattr(dataset, "__len__"):
        return ((index, dataset[index]) for index in range(first, len(dataset), step))
    return ((index, row) for index, row in enumerate(dataset) if index % step == first)


if __name__ == "__main__":
    main()
