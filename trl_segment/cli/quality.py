"""`trl-segment quality`: a selection against the known roles of a dataset's segments."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from ..evaluation.quality import USEFUL_ROLES, describe_quality, selection_quality
from ..selection import SelectionConfig, select
from .arguments import DatasetArguments, StoreArguments
from .data import StoreReader, load_train_split, roles_of
from .errors import UserError
from .options import Command, Group
from .output import count, say, write_json
from .start import start


@dataclass
class QualityArguments:
    """
    Arguments of `trl-segment quality` besides those of the store, the dataset and the selection.

    Parameters:
        roles_column (`str`, *optional*, defaults to `"roles"`):
            Column with one role per segment, in order.
        useful_roles (`list[str]`, *optional*):
            Roles that count as useful. Defaults to those of the tiny world.
        ignored_roles (`list[str]`, *optional*):
            Roles that count neither way.
        output_dir (`str`, *optional*):
            Folder for `quality.json` and a figure, `quality.svg`.
    """

    roles_column: str = field(default="roles", metadata={"help": "Column with one role per segment, in order."})
    useful_roles: list[str] = field(
        default_factory=lambda: list(USEFUL_ROLES), metadata={"help": "Roles that count as useful."}
    )
    ignored_roles: list[str] = field(
        default_factory=list, metadata={"help": "Roles that count neither as useful nor as redundant."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for quality.json and a figure, quality.svg. By default none."}
    )


COMMAND = Command(
    "quality",
    "Compare the selection with known roles of segments.",
    (
        Group("store", StoreArguments),
        Group("dataset", DatasetArguments),
        Group("roles and output", QualityArguments),
        Group("selection", SelectionConfig, without=("transition",)),
    ),
    examples=(
        "trl-segment quality --dataset_name traces.jsonl --attributions scores",
        "trl-segment quality --dataset_name traces.jsonl --attributions scores --beta 1 --keep_first 0 --keep_last 0",
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
    store_args, data_args, args, selection = parser.parse(argv)
    if selection.selection != "random":
        parser.refuse({"seed"}, "without --selection random")
    reader = StoreReader(store_args.attributions, data_args.dataset_text_field, store_args.segmenter)
    dataset = load_train_split(data_args)
    if args.roles_column not in dataset.column_names:
        parser.error(
            f"--roles_column {args.roles_column}: the dataset has no such column, only "
            f"{', '.join(dataset.column_names)}. It must hold one role per segment"
        )
    compared = []
    for name, row, trace, stored in reader.attributed(reader.all(dataset)):
        scores, roles = stored.segment_scores, roles_of(row, args.roles_column)
        if roles is None or len(roles) != len(scores):
            raise UserError(
                f"{name}: --roles_column {args.roles_column} holds "
                f"{'no list' if roles is None else count(len(roles), 'role')} for {count(len(scores), 'segment')}. "
                "There must be one role for each. Roles belong to one way of cutting: use the same segmenter."
            )
        compared.append((roles, select(scores, selection, trace.key).kept, scores.strength))
    reader.say_left_out()
    if not compared:
        raise UserError(f"no row of the dataset has scores in {store_args.attributions!r}, so nothing is compared.")
    quality = selection_quality(compared, args.useful_roles, args.ignored_roles, selection)
    say(describe_quality(quality, args.useful_roles))
    if args.output_dir is not None:
        write_json(Path(args.output_dir) / "quality.json", dataclasses.asdict(quality))
        try:
            from ..report.quality import draw_quality
        except ImportError as error:
            raise UserError("the figure is drawn with matplotlib. Install it: pip install matplotlib") from error
        draw_quality({store_args.attributions: quality}, Path(args.output_dir) / "quality.svg", args.useful_roles)


if __name__ == "__main__":
    from .main import run

    run("quality", main)
