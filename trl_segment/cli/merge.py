"""`trl-segment merge`: bring the stores of independent jobs together."""

from dataclasses import dataclass, field

from ..store import AttributionStore, exclusive_run
from .options import Command, Group
from .output import count, note
from .start import start


@dataclass
class MergeArguments:
    """
    Arguments of `trl-segment merge`.

    Parameters:
        stores (`list[str]`):
            Folders of the stores to read. They stay as they are.
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store to write. Rows that it already holds win, then those of the first store.
    """

    stores: list[str] = field(
        default_factory=list, metadata={"help": "Folders of the stores to read. They stay as they are."}
    )
    attributions: str = field(
        default="attributions",
        metadata={"help": "Folder of the store to write. Rows that it already holds win, then those of the first."},
    )


COMMAND = Command(
    "merge",
    "Bring the stores of independent jobs together.",
    (Group("stores", MergeArguments),),
    examples=("trl-segment merge --stores scores-1 scores-2 --attributions scores",),
)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = start(COMMAND, argv)
    (args,) = parser.parse(argv)
    parser.require("stores", args.stores, "the stores to read")
    sources = [AttributionStore(path) for path in args.stores]
    # Before anything is written, the settings of a new store among it: either all go together or none
    for source in sources[1:]:
        sources[0].check_mergeable(source)
    with exclusive_run(args.attributions):
        merged = AttributionStore(args.attributions, sources[0].settings)
        for source in sources:
            merged.check_mergeable(source)
        for source in sources:
            taken = merged.merge(source)
            note(f"{source.path}: {count(len(source), 'trace')}, {taken} of them new")
        merged.compact()
    note(f"{count(len(merged), 'trace')} stored in {args.attributions}")


if __name__ == "__main__":
    from .main import run

    run("merge", main)
