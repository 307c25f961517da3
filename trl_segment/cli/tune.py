"""`trl-segment tune`: sweep the thresholds over stored attributions, or compare stores."""

import contextlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from ..evaluation.gains import CONFIDENCES, SegmentGains
from ..evaluation.tuning import BETAS, TAUS, ScoredTrace, challenge, compare_stores, sweep_thresholds
from ..progress import progress_bar
from ..selection import CONSISTENCY_SCALES, SelectionConfig
from ..store import CUSTOM_SEGMENTER, AttributionStore, open_store
from ..traces import row_name
from .arguments import DatasetArguments, ModelArguments
from .data import StoreReader, load_train_split, spread_evenly
from .errors import UserError
from .options import Command, Group
from .output import count, note, say, write_json
from .start import start
from .tables import agreement_lines, challenge_sentence, ranking_lines, sweep_lines


@dataclass
class TuneStoreArguments:
    """
    The stores of `trl-segment tune`.

    Parameters:
        attributions (`list[str]`, *optional*, defaults to `["attributions"]`):
            Stores to sweep over. Several show the effect of a baseline, rule, segmenter or model.
        compare (`str`, *optional*):
            A store to compare each of them with instead: rank correlations and overlap of the selections.
        segmenter (`str`, *optional*):
            The function that cut the segments, as `"FILE.py:FUNCTION"`. Only for stores that were made with one.
    """

    attributions: list[str] = field(
        default_factory=lambda: ["attributions"], metadata={"help": "Stores to sweep over, one or several."}
    )
    compare: str | None = field(
        default=None, metadata={"help": "Store to compare each of them with instead: correlations, overlap."}
    )
    segmenter: str | None = field(
        default=None,
        metadata={"help": "FILE.py:FUNCTION that cut the segments, only for stores that were made with one."},
    )


@dataclass
class TuneArguments:
    """
    Arguments of a sweep of `trl-segment tune`.

    Parameters:
        taus (`list[float]`, *optional*):
            Values of `tau`. Defaults to nine from 0.3 to 1.
        betas (`list[float]`, *optional*):
            Values of `beta`. Defaults to nine from 0.2 to 1.
        scales (`list[str]`, *optional*):
            Scales of the consistency that `beta` bounds, see `consistency_scale`. Defaults to all of them.
        confidence (`str`, *optional*, defaults to `"log_probability"`):
            Scale of the model's confidence in the answer: `"log_probability"` (nats), or `"probability"` (the paper
            estimates it by sampling), on which a step counts little while the answer is still out of reach.
        max_traces (`int`, *optional*, defaults to `500`):
            Largest number of traces, spread evenly over the dataset.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print the plan of the run, and stop. No weight is loaded.
        output_dir (`str`, *optional*, defaults to `"tune"`):
            Folder for the gains of segments (computed once), `tune.json` and `tune.png`.
    """

    taus: list[float] | None = field(default=None, metadata={"help": "Values of tau. By default nine from 0.3 to 1."})
    betas: list[float] | None = field(
        default=None, metadata={"help": "Values of beta. By default nine from 0.2 to 1."}
    )
    scales: list[str] = field(
        default_factory=lambda: list(CONSISTENCY_SCALES),
        metadata={
            "help": "Scales of the consistency that beta bounds. By default all.",
            "choices": list(CONSISTENCY_SCALES),
        },
    )
    confidence: str = field(
        default="log_probability",
        metadata={"help": "Confidence in the answer as log_probability or probability.", "choices": list(CONFIDENCES)},
    )
    max_traces: int = field(default=500, metadata={"help": "Largest number of traces, spread over the dataset."})
    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run, and stop."})
    output_dir: str = field(default="tune", metadata={"help": "Folder for gains, table and heat map."})

    def __post_init__(self):
        # Before a model is loaded for them
        for name in ("tau", "beta"):
            for value in getattr(self, f"{name}s") or ():
                SelectionConfig(**{name: value})
        if self.max_traces < 1:
            raise ValueError(f"`max_traces` must be at least 1, but {self.max_traces} was passed.")


# In training, and in draws at random, which say nothing about scores
_WITHOUT = ("transition", "seed")

COMMAND = Command(
    "tune",
    "Sweep the thresholds over stored scores, or compare stores.",
    (
        Group("stores", TuneStoreArguments),
        Group("dataset: the traces that the stores were made of", DatasetArguments),
        Group("sweep", TuneArguments),
        Group("model whose confidence in the answer counts, best the one that will be trained", ModelArguments),
        Group("selection: tau and beta are the pair that the best one is compared with", SelectionConfig, _WITHOUT),
    ),
    examples=(
        "trl-segment tune --model_name_or_path MODEL --dataset_name traces.jsonl --attributions scores",
        "trl-segment tune --attributions scores --compare other_scores",
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
    store_args, data_args, args, model_args, selection = parser.parse(argv)
    if selection.selection in ("random", "all"):
        parser.error(f"--selection {selection.selection} does not depend on the scores, which are judged here")
    if store_args.compare is not None:
        other_options = (*fields(DatasetArguments), *fields(TuneArguments), *fields(ModelArguments))
        parser.refuse({"segmenter", *(option.name for option in other_options)}, "with --compare, which reads no text")
        other = open_store(store_args.compare)
        for name in store_args.attributions:
            store = _attributed(name)
            agreement = compare_stores(store, other, selection)
            differences = store.settings.differences(other.settings, "first", "second")
            say(*agreement_lines(name, store_args.compare, agreement, differences))
        return
    parser.require("dataset_name", data_args.dataset_name, "the traces that the stores were made of")
    parser.refuse({"consistency_scale"}, "on a sweep: pass --scales")
    parser.refuse({"min_strength"}, "on a sweep, which is over tau and beta")
    if selection.selection != "attribution":
        parser.error(f"a sweep is over tau and beta, and --selection {selection.selection} has no tau")
    _sweep(parser, store_args, data_args, args, model_args, selection)


def _attributed(name: str) -> AttributionStore:
    store = open_store(name)
    if not any(row.problem is None for row in store.values()):
        raise UserError(f"the store at {name!r} holds no attributed trace, so there is nothing to tune with.")
    return store


def _open_readers(store_args, text_column) -> list[StoreReader]:
    stores = {name: _attributed(name) for name in store_args.attributions}
    custom = {name for name, store in stores.items() if store.settings.segmenter == CUSTOM_SEGMENTER}
    # Stores of a function and of a named segmenter may stand side by side
    return [
        StoreReader(name, text_column, store_args.segmenter if name in custom or not custom else None, store)
        for name, store in stores.items()
    ]


def _sweep(parser, store_args, data_args, args, model_args, selection):
    readers = _open_readers(store_args, data_args.dataset_text_field)
    dataset = load_train_split(data_args)
    wanted = spread_evenly(args.max_traces, len(dataset))
    rows = [(row_name(dataset[index], index), dataset[index]) for index in wanted]
    if args.dry_run:
        stored = (row for reader in readers for row in reader.store.values())
        segments = [len(row.num_tokens) for row in stored if row.problem is None]
        say(
            f"{count(len(readers), 'store')}, {len(rows):,} of {count(len(dataset), 'trace')}: one forward pass a "
            f"trace and store, and a short one for each of about {np.mean(segments):.0f} segments, unless "
            f"{args.output_dir}/gains.jsonl has them. Nothing was loaded or written."
        )
        return
    parser.require(
        "model_name_or_path", model_args.model_name_or_path, "the model whose confidence in the answer counts"
    )
    folder = Path(args.output_dir)
    file = SegmentGains(folder / "gains.jsonl", lambda: model_args.load(model_args.dtype), args.confidence)
    with contextlib.closing(file) as gains:
        sweeps, verdicts, report = _sweeps(readers, rows, gains, args, selection)
    for line in ranking_lines(sweeps):
        say(line)
    write_json(folder / "tune.json", report)
    try:
        from ..report.heat_map import draw_sweeps

        draw_sweeps(sweeps, folder / "tune.png", (selection.tau, selection.beta), CONFIDENCES[args.confidence])
    except ImportError as error:
        raise UserError("the heat map is drawn with matplotlib. Install it: pip install matplotlib") from error
    note(f"Table and heat map: {folder / 'tune.json'}, {folder / 'tune.png'}")
    say(*verdicts)


def _sweeps(readers, rows, gains, args, selection):
    """A sweep for each store and scale by title, a sentence for each store, and what `tune.json` says of them."""
    taus, betas = sorted(args.taus or TAUS), sorted(args.betas or BETAS)
    unit = CONFIDENCES[args.confidence]
    sweeps, verdicts, report = {}, [], []
    for reader in readers:
        scored = _scored_traces(reader, rows, gains)
        of_store = {}
        for scale in args.scales:
            sweep = sweep_thresholds(scored, replace(selection, consistency_scale=scale), taus, betas)
            title = f"{Path(reader.name).name}, {scale}" if len(readers) > 1 else scale
            sweeps[title] = of_store[scale] = sweep
            say(*sweep_lines(title, sweep, selection, unit, len(scored)))
            report.append({"store": reader.name, "scale": scale, "traces": len(scored), **sweep.figures})
        found = challenge(of_store, selection.consistency_scale, selection.tau, selection.beta)
        store = f"{Path(reader.name).name}: " if len(readers) > 1 else ""
        verdicts.append(f"{store}{challenge_sentence(found, selection, unit)}")
    return sweeps, verdicts, report


def _scored_traces(reader: StoreReader, rows, gains: SegmentGains) -> list[ScoredTrace]:
    """Scores and gains of the rows that the store of a reader holds."""
    scored = []
    bar = progress_bar(rows, f"Gains for {Path(reader.name).name}", total=len(rows))
    for found in reader.attributed(reader.find(*row) for row in bar):
        settings = reader.store.settings
        values = gains(found.trace, settings.answer_template, settings.answer_statements)
        if isinstance(values, str):
            reader.leave_out(found, values)
        else:
            scored.append(ScoredTrace(found.stored.segment_scores, values))
    reader.say_left_out()
    if not scored:
        raise UserError(f"no row of the dataset has scores in {reader.name!r}. Was it made of another dataset?")
    return scored


if __name__ == "__main__":
    from .main import run

    run("tune", main)
