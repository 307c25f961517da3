"""`trl-segment inspect`: one trace, in the terminal or as a page for the browser."""

import contextlib
import dataclasses
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..selection import SelectionConfig
from ..traces import TraceConfig, row_name
from .arguments import DatasetArguments, LoadingArguments, StoreArguments
from .data import FoundRow, StoreReader, load_train_split, roles_of
from .errors import UserError
from .options import Command, Group
from .output import count, note, say
from .start import start


if TYPE_CHECKING:
    from ..attribution import AttributionConfig
    from ..store import StoreSettings


@dataclass
class InspectArguments:
    """
    Arguments of `trl-segment inspect` besides those of the store, the dataset, the selection and the model.

    Parameters:
        trace (`str`, *optional*, defaults to `"0"`):
            `id` of the row, or its number.
        html (`str`, *optional*):
            File to write the trace to as a page for the browser, instead of printing it. With `model_name_or_path`
            (the model of the store) the trace is attributed once more and the page shades tokens too.
        color (`bool`, *optional*):
            Whether to color. Defaults to `True` on a terminal.
    """

    trace: str = field(default="0", metadata={"help": "`id` of the row, or its number."})
    html: str | None = field(
        default=None, metadata={"help": "File to write a page for the browser to, instead of printing the trace."}
    )
    color: bool | None = field(
        default=None, metadata={"help": "Whether to color the printed trace. By default on a terminal."}
    )


COMMAND = Command(
    "inspect",
    "Show one trace, in the terminal or as a page: its segments, their scores, kept or dropped.",
    (
        Group("store", StoreArguments),
        Group("dataset", DatasetArguments),
        Group("trace", InspectArguments),
        Group("selection", SelectionConfig, without=("transition",)),
        Group(
            "model of the store, with which --html shades tokens too; the store knows its precision", LoadingArguments
        ),
    ),
    examples=(
        "trl-segment inspect --dataset_name traces.jsonl --attributions scores --trace 0",
        "trl-segment inspect --dataset_name traces.jsonl --attributions scores --trace 0 --html trace.html "
        "--model_name_or_path MODEL",
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
    store_args, data_args, args, selection, model_args = parser.parse(argv)
    if model_args.model_name_or_path and not args.html:
        parser.error("--model_name_or_path makes token attributions, which only the page shows: pass --html FILE too")
    if not model_args.model_name_or_path:
        parser.refuse((option.name for option in fields(LoadingArguments)), "without --model_name_or_path")
    if selection.selection != "random":
        parser.refuse({"seed"}, "without --selection random")
    reader = StoreReader(store_args.attributions, data_args.dataset_text_field, store_args.segmenter)
    found = reader.find(*_find_row(load_train_split(data_args), args.trace))
    if found.stored is None:
        raise UserError(
            f"{found.name} is not in the store at {reader.name!r}, which holds {count(len(reader.store), 'trace')}. "
            "It may belong to another dataset, or the row has changed since. Run `trl-segment attribute` on this "
            "dataset."
        )
    if args.html:
        _write_page(found, reader, args, selection, model_args)
        return
    try:
        from rich.console import Console

        from ..report.terminal import render_trace
    except ImportError as error:
        raise UserError("the trace is printed with rich. Install it: pip install rich") from error
    # A narrower terminal would lose columns of the table
    console = Console(force_terminal=args.color, width=max(100, Console().width))
    console.print(render_trace(found.name, found.trace, found.stored, selection))


def _find_row(dataset, wanted):
    if "id" in dataset.column_names:
        ids = [str(value) for value in dataset["id"]]
        if wanted in ids:
            return wanted, dataset[ids.index(wanted)]
    if not wanted.isdigit() or int(wanted) >= len(dataset):
        raise UserError(f"no trace {wanted!r}: no row has this `id`, and rows are numbered 0 to {len(dataset) - 1}.")
    return row_name(dataset[int(wanted)], int(wanted)), dataset[int(wanted)]


def _write_page(found: FoundRow, reader: StoreReader, args, selection, model_args):
    try:
        from ..report.trace_page import render_trace_page
    except ImportError as error:
        raise UserError("the page is made with Jinja2. Install it: pip install jinja2") from error
    tokens = None
    if model_args.model_name_or_path and found.stored.problem is None:
        tokens = _attribute_tokens(found, reader, model_args)
    page = render_trace_page(
        found.name,
        found.trace,
        found.stored,
        selection,
        settings=reader.store.settings.describe(),
        token_attributions=tokens,
        roles=roles_of(found.row),
    )
    path = Path(args.html)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", newline="\n")
    note(f"{found.name} is in {path} ({path.stat().st_size / 1024:,.0f} KiB). Open it in a browser.")


def _attribute_tokens(found: FoundRow, reader: StoreReader, model_args: LoadingArguments):
    """Attribute a trace once more as the store's were: first characters and scores of its tokens."""
    import torch

    from ..attribution import SCORERS, attribute_tokens, attribution_settings

    settings = reader.store.settings
    config, selection = stored_configs(settings, reader.config)
    if not SCORERS[settings.scorer].token_attributions:
        raise UserError(
            f"the store's scorer {settings.scorer!r} scores segments as a whole, so there are no tokens to shade. "
            "Leave --model_name_or_path out."
        )
    model, tokenizer = model_args.load(settings.dtype)
    adapter = settings.adapter != "off"
    with contextlib.ExitStack() as stack:
        if not adapter and hasattr(model, "disable_adapter"):
            stack.enter_context(model.disable_adapter())
        if settings.autocast != "no":
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[settings.autocast]
            stack.enter_context(torch.autocast(model.device.type, dtype))
        now = attribution_settings(model, tokenizer, config, settings.autocast, selection=selection, adapter=adapter)
        # How rows are cut is no question here: the trace was found
        cut = {name: getattr(settings, name) for name in ("segmenter", "custom_segmenter", "segmenter_source")}
        differences = settings.differences(dataclasses.replace(now, **cut))
        if differences:
            lines = "\n".join(f"  {line}" for line in differences)
            raise UserError(
                f"{model_args.model_name_or_path!r} is not the model of the store at {reader.name!r}:\n{lines}\n"
                "Pass the model that made the scores, or leave it out to see them without tokens."
            )
        starts, values, result = attribute_tokens(found.trace, model, tokenizer, config, reader.store, selection)
    stored = found.stored.segment_scores.strength
    difference = np.abs(result.segments.strength - stored).max() / max(stored.max(), np.finfo(float).tiny)
    if difference > 0.01:
        say(
            f"Attributed again, the segments' strengths differ from the stored ones by up to {difference:.1%} of the "
            "largest: the page's tokens and segments do not quite add up. Low precision or another device can do that."
        )
    return starts, values


def stored_configs(
    settings: "StoreSettings", trace_config: TraceConfig
) -> "tuple[AttributionConfig, SelectionConfig | None]":
    """
    The configs that made a store.

    Args:
        settings ([`~trl_segment.store.StoreSettings`]):
            Its settings.
        trace_config ([`~trl_segment.TraceConfig`]):
            How its rows are read.

    Returns:
        `tuple[AttributionConfig, SelectionConfig | None]`: How it was attributed, and the thresholds that the scores
        are for, if they are for any.
    """
    from ..attribution import AttributionConfig

    names = {entry.name for entry in fields(AttributionConfig)}
    options = {f"attribution_{name}": value for name, value in settings.options.items()}
    config = AttributionConfig(
        **dataclasses.asdict(trace_config),
        attribution_scorer=settings.scorer,
        answer_template=settings.answer_template,
        answer_statements=settings.answer_statements,
        **{name: value for name, value in options.items() if name in names},
    )
    decision = settings.options.get("decision")
    if decision is None:
        return config, None
    thresholds = {entry.name for entry in fields(SelectionConfig)}
    return config, SelectionConfig(**{name: value for name, value in decision.items() if name in thresholds})


if __name__ == "__main__":
    from .main import run

    run("inspect", main)
