"""`trl-segment inspect`: one trace, in the terminal or as a page for the browser."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from trl import ModelConfig, ScriptArguments, TrlParser, get_quantization_config

from ..attribution import AttributionStore, attribute_tokens, attribution_settings
from ..attribution.hub import open_store
from ..attribution.loading import load_attribution_model
from ..selection import SelectionConfig
from ..traces import TraceConfig, build_trace, row_name
from .attribute import AttributeArguments
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
        html (`str`, *optional*):
            File to write the trace to as a page for the browser, instead of printing it. With `model_name_or_path`
            (the model of the store) the trace is attributed once more and the page shades tokens too.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
        color (`bool`, *optional*):
            Whether to color. Defaults to `True` on a terminal.
        chat_template_path (`str`, *optional*):
            Jinja file that the store was made with, for `model_name_or_path`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the Hub may run, for `model_name_or_path`.
    """

    attributions: str = field(default="attributions", metadata={"help": "Folder of the attribution store."})
    trace: str = field(default="0", metadata={"help": "`id` of the row, or its number."})
    html: str | None = field(
        default=None,
        metadata={
            "help": "File to write a page for the browser to. With --model_name_or_path (the model of the store) it "
            "shades tokens too."
        },
    )
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})
    color: bool | None = field(default=None, metadata={"help": "Whether to color. Default: on a terminal."})
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file that the store was made with, for --model_name_or_path."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code from the Hub may run, for --model_name_or_path."}
    )


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((ScriptArguments, InspectArguments, ModelConfig), prog="trl-segment inspect")
    script_args, args, model_args = parser.parse_args_and_config(argv)
    if model_args.model_name_or_path and not args.html:
        parser.error("--model_name_or_path makes token attributions, which only the page shows: pass --html FILE too")
    store = open_store(args.attributions)
    config = TraceConfig(**{name.name: store.settings[name.name] for name in fields(TraceConfig)})
    dataset = load_train_split(script_args)
    name, row = _find_row(dataset, args.trace)
    trace = build_trace(row, config, text_column=args.dataset_text_field)
    if trace.key not in store:
        sys.exit(
            f"{name} is not in the store at {args.attributions!r}, which holds {len(store):,} traces. It may belong "
            "to another dataset, or the row has changed since. Run `trl-segment attribute` on this dataset."
        )
    if args.html:
        _write_page(name, row, trace, store, args, model_args)
        return
    try:
        from rich.console import Console

        from ..report.terminal import render_trace
    except ImportError:
        sys.exit("`trl-segment inspect` prints with rich. Install it: pip install rich")
    # Of a narrower terminal the table would lose columns
    console = Console(force_terminal=args.color, width=max(100, Console().width))
    console.print(render_trace(name, trace, store[trace.key], args))


def _write_page(name, row, trace, store, args, model_args):
    try:
        from ..report.trace_page import render_trace_page
    except ImportError:
        sys.exit("`trl-segment inspect --html` writes with Jinja2. Install it: pip install jinja2")
    stored, scores = store[trace.key], None
    if model_args.model_name_or_path and stored.problem is None:
        scores = _attribute_tokens(trace, store, args, model_args)
    page = render_trace_page(
        name, trace, stored, args, settings=store.settings, token_attributions=scores, roles=row.get("roles")
    )
    path = Path(args.html)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", newline="\n")
    print(f"{name} is in {path} ({path.stat().st_size / 1024:,.0f} KiB): open it in a browser.")


def _attribute_tokens(trace, store, args, model_args):
    model, tokenizer = load_attribution_model(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        chat_template_path=args.chat_template_path,
        trust_remote_code=args.trust_remote_code,
    )
    config = _stored_config(store.settings)
    AttributionStore(store.path, attribution_settings(model, tokenizer, config))  # refuses another model
    starts, values, result = attribute_tokens(trace, model, tokenizer, config, store)
    stored = np.array(store[trace.key].sum_abs)
    difference = np.abs(result.sum_abs - stored).max() / max(stored.max(), np.finfo(float).tiny)
    if difference > 0.01:
        print(
            f"Attributed again, the segments' sums differ from the stored ones by up to {difference:.1%} of the "
            "largest: the page's tokens and segments do not quite add up. Low precision or another device can do that."
        )
    return starts, values


def _stored_config(settings) -> AttributeArguments:
    """The arguments of `trl-segment attribute` that made a store."""
    renamed = ("scorer", "rule", "evaluations", "tolerance", "stop", "noise_samples", "path", "baseline")
    return AttributeArguments(
        **{field.name: settings[field.name] for field in fields(TraceConfig)},
        **{f"attribution_{name}": settings[name] for name in renamed},
        answer_template=settings["answer_template"],
        **settings["decision"],
    )


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
