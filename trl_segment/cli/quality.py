"""`trl-segment quality`: a selection against the known roles of a dataset's segments."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from trl import ScriptArguments, TrlParser

from ..attribution.hub import open_store
from ..quality import USEFUL_ROLES, describe_quality, selection_quality
from ..selection import SelectionConfig, attribution_strength, draw_segments, select_segments
from ..traces import TraceConfig, build_trace, row_name
from .data import load_train_split


@dataclass
class QualityArguments(SelectionConfig):
    """
    Arguments of `trl-segment quality` besides TRL's. Extends [`~trl_segment.SelectionConfig`].

    Parameters:
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store. It also says how traces are cut.
        roles_column (`str`, *optional*, defaults to `"roles"`):
            Column with one role per segment, in order.
        useful_roles (`list[str]`, *optional*):
            Roles that count as useful. Defaults to those of the tiny world.
        ignored_roles (`list[str]`, *optional*):
            Roles that count neither way.
        dataset_text_field (`str`, *optional*, defaults to `"text"`):
            Column of the language-modeling format.
        output_dir (`str`, *optional*):
            Folder for `quality.json` and a figure, `quality.svg`.
    """

    attributions: str = field(default="attributions", metadata={"help": "Folder of the attribution store."})
    roles_column: str = field(default="roles", metadata={"help": "Column with one role per segment, in order."})
    useful_roles: list[str] = field(
        default_factory=lambda: list(USEFUL_ROLES), metadata={"help": "Roles that count as useful."}
    )
    ignored_roles: list[str] = field(
        default_factory=list, metadata={"help": "Roles that count neither as useful nor as redundant."}
    )
    dataset_text_field: str = field(default="text", metadata={"help": "Column of the language-modeling format."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for quality.json and a figure, quality.svg. Default: none written."}
    )


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((ScriptArguments, QualityArguments), prog="trl-segment quality")
    script_args, args = parser.parse_args_and_config(argv)
    dataset = load_train_split(script_args)
    if args.roles_column not in dataset.column_names:
        parser.error(
            f"--roles_column {args.roles_column}: the dataset has no such column, only "
            f"{', '.join(dataset.column_names)}. It must hold one role per segment."
        )
    store = open_store(args.attributions)
    config = TraceConfig(**{name.name: store.settings[name.name] for name in fields(TraceConfig)})
    compared, missing, failed = [], [], []
    for index, row in enumerate(dataset):
        trace = build_trace(row, config, text_column=args.dataset_text_field)
        stored = store.get(trace.key)
        if stored is None:
            missing.append(row_name(row, index))
        elif stored.problem is not None:
            failed.append(row_name(row, index))
        else:
            kept = select_segments(stored.num_tokens, stored.sum_abs, stored.sum_signed, args)
            if args.selection == "random":
                kept = draw_segments(kept, args, seed=[0, int(trace.key, 16)])
            elif args.selection == "all":
                kept[:] = True
            compared.append((row[args.roles_column], kept, attribution_strength(stored.sum_abs, stored.num_tokens)))
    for names, what in ((missing, "not in the store"), (failed, "not attributable")):
        if names:
            print(f"{len(names)} traces {what}, left out: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    if not compared:
        sys.exit(f"No trace of the dataset has attributions in {args.attributions!r}: nothing to compare.")
    quality = selection_quality(compared, args.useful_roles, args.ignored_roles)
    print(describe_quality(quality, args.useful_roles))
    if args.output_dir is not None:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "quality.json").write_text(json.dumps(dataclasses.asdict(quality), indent=1) + "\n")
        try:
            from ..report.quality import draw_quality
        except ImportError:
            sys.exit("The figure is drawn with matplotlib. Install it: pip install matplotlib")
        draw_quality({args.attributions: quality}, folder / "quality.svg", args.useful_roles)


if __name__ == "__main__":
    main()
