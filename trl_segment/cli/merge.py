"""`trl-segment merge`: bring the stores of independent jobs together."""

from dataclasses import dataclass, field

from trl import TrlParser

from ..attribution import AttributionStore
from ..attribution.store import exclusive_run


@dataclass
class MergeArguments:
    """
    Arguments of `trl-segment merge`.

    Parameters:
        stores (`list[str]`):
            Folders of the stores to read. They stay as they are.
        attributions (`str`, *optional*, defaults to `"attributions"`):
            Folder of the store to write. What it holds already counts, then the first store that has a trace.
    """

    stores: list[str] = field(
        default_factory=list, metadata={"help": "Folders of the stores to read. They stay as they are."}
    )
    attributions: str = field(
        default="attributions",
        metadata={
            "help": "Folder of the store to write. What it holds already counts, then the first that has a trace."
        },
    )


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments. Defaults to those of the process.
    """
    parser = TrlParser((MergeArguments,), prog="trl-segment merge")
    (args,) = parser.parse_args_and_config(argv)
    if not args.stores:
        parser.error("--stores is required: the stores to read")
    sources = [AttributionStore(path) for path in args.stores]
    with exclusive_run(args.attributions):
        merged = AttributionStore(args.attributions, sources[0].settings)
        # Before anything is written: either all go together or none
        for source in sources:
            merged.check_mergeable(source)
        for source in sources:
            taken = merged.merge(source)
            print(f"{source.path}: {len(source)} traces, {taken} of them new")
        merged.compact()
    print(f"{len(merged)} traces stored in {args.attributions}")


if __name__ == "__main__":
    main()
