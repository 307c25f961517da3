"""`trl-segment attribute`: attribute the traces of a dataset and store the scores."""

from dataclasses import dataclass, field

from trl import ModelConfig, ScriptArguments, TrlParser, get_quantization_config

from ..attribution import AttributionConfig, AttributionStore, attribute_traces, attribution_settings
from ..attribution.loading import load_attribution_model, process_state
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
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and a cost estimate, and stop."})
    progress: bool | None = field(
        default=None, metadata={"help": "Whether to show a progress bar. Default: on a terminal."}
    )
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file to use in place of the tokenizer's chat template."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether code from the Hub may run."})


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
    if args.dry_run:
        plan_attribute(script_args, args, model_args, process_state())
        return
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
    # Started by `accelerate launch` or `torchrun`, every process takes its share of the traces
    state = process_state()
    if args.attribution_rule == "density" and state.num_processes > 1:
        parser.error("--attribution_rule density learns from the first traces of one process: start one process")
    settings = attribution_settings(model, tokenizer, args)
    store = AttributionStore(args.attributions, settings)
    traces = (
        (row_name(row, index), build_trace(row, args, text_column=args.dataset_text_field))
        for index, row in enumerate(dataset)
        if index % state.num_processes == state.process_index
    )
    total = None if script_args.dataset_streaming else len(dataset) // state.num_processes
    progress = args.progress if state.is_main_process else False
    summary = attribute_traces(traces, model, tokenizer, args, store, total, progress)
    skipped = sum(map(len, summary.skipped.values()))
    share = "" if state.num_processes == 1 else f"Process {state.process_index + 1} of {state.num_processes}: "
    print(
        f"{share}{summary.traces} traces: {summary.attributed} attributed with {summary.evaluations:,} gradient "
        f"evaluations, {summary.reused} read from the store, {summary.repeated} repeated, {skipped} not attributable."
    )
    state.wait_for_everyone()
    if state.is_main_process:
        AttributionStore(args.attributions, settings).compact()
        print(f"Stored in {args.attributions}")


if __name__ == "__main__":
    main()
