"""`trl-segment faithfulness`: sufficiency and necessity of a selection against random segments of the same share."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..evaluation.faithfulness import (
    SHARES,
    Faithfulness,
    FaithfulnessSummary,
    SubsetConfidence,
    check_plan,
    describe_faithfulness,
    measure_faithfulness,
    summarize_faithfulness,
)
from ..evaluation.gains import CONFIDENCES
from ..progress import progress_bar
from ..selection import SelectionConfig
from ..traces import row_name
from ..traces.statements import STATEMENTS
from .arguments import DatasetArguments, ModelArguments, StoreArguments
from .data import FoundRow, StoreReader, load_train_split, spread_evenly
from .errors import UserError
from .options import Command, Group
from .output import note, say, write_json
from .start import start


@dataclass
class MeasurementArguments:
    """
    How sufficiency and necessity are measured.

    Parameters:
        shares (`list[float]`, *optional*, defaults to `[0.1, 0.2, 0.3, 0.5, 0.7]`):
            Shares of the reasoning's tokens for the curves.
        draws (`int`, *optional*, defaults to `4`):
            Random sets of segments for each set that is chosen.
        max_traces (`int`, *optional*, defaults to `100`):
            Largest number of traces, spread evenly over the dataset.
        confidence (`str`, *optional*, defaults to `"log_probability"`):
            Scale of the model's confidence in the answer: `"log_probability"` (nats) or `"probability"`.
        answer_statements (`str`, *optional*):
            What becomes of the places at which the reasoning states the answer, from which alone it can be read, see
            [`~trl_segment.AttributionConfig`]. Defaults to what the attributions were made with.
    """

    shares: list[float] = field(
        default_factory=lambda: list(SHARES), metadata={"help": "Shares of the reasoning's tokens for the curves."}
    )
    draws: int = field(default=4, metadata={"help": "Random sets of segments for each set that is chosen."})
    max_traces: int = field(default=100, metadata={"help": "Largest number of traces, spread over the dataset."})
    confidence: str = field(
        default="log_probability",
        metadata={"help": "Confidence in the answer as log_probability or probability.", "choices": list(CONFIDENCES)},
    )
    answer_statements: str | None = field(
        default=None,
        metadata={
            "help": "What becomes of the places at which the reasoning states the answer. Default: as for the "
            "attributions.",
            "choices": list(STATEMENTS),
        },
    )

    def __post_init__(self):
        check_plan(self.shares, self.draws)
        if self.max_traces < 1:
            raise ValueError(f"`max_traces` must be at least 1, but {self.max_traces} was passed.")
        self.shares = sorted(set(self.shares))

    def spread(self, rows: int) -> set[int]:
        """
        Which rows of a dataset are measured.

        Args:
            rows (`int`):
                Number of rows.

        Returns:
            `set[int]`: Their numbers, spread evenly.
        """
        return set(spread_evenly(self.max_traces, rows))


class Measurement:
    """
    Measures rows as they pass by.

    Args:
        reader ([`~trl_segment.cli.data.StoreReader`]):
            Where they come from.
        selection ([`~trl_segment.SelectionConfig`]):
            What is judged.
        args ([`MeasurementArguments`]):
            How.
        model_args ([`~trl_segment.cli.arguments.ModelArguments`]):
            The model whose confidence counts.
        folder (`Path`):
            Folder for `log_probs.jsonl`, which keeps what is computed.
    """

    def __init__(
        self,
        reader: StoreReader,
        selection: SelectionConfig,
        args: MeasurementArguments,
        model_args: ModelArguments,
        folder: Path,
    ):
        self.reader, self.selection, self.args = reader, selection, args
        self.measured: list[Faithfulness] = []
        self._confidence = SubsetConfidence(
            folder / "log_probs.jsonl", lambda: model_args.load(model_args.dtype), args.confidence
        )

    def watch(self, rows: Iterable[FoundRow], wanted: Collection[int] | None = None) -> Iterator[FoundRow]:
        """
        Pass rows on, and measure those that have scores.

        Args:
            rows (`Iterable[FoundRow]`):
                Rows.
            wanted (`Collection[int]`, *optional*):
                Numbers of the rows to measure. Defaults to the first `max_traces` that have scores.

        Yields:
            [`~trl_segment.cli.data.FoundRow`]: Each row.
        """
        for index, row in enumerate(rows):
            chosen = len(self.measured) < self.args.max_traces if wanted is None else index in wanted
            if chosen and row.stored is not None and row.stored.problem is None:
                self._measure(row)
            yield row

    def close(self) -> None:
        """Let other runs write to the folder."""
        self._confidence.close()

    def _measure(self, row):
        settings = self.reader.store.settings
        statements = self.args.answer_statements or settings.answer_statements
        confidence = self._confidence.of(row.trace, settings.answer_template, statements)
        if isinstance(confidence, str):
            self.reader.leave_out(row, confidence)
            return
        scores, key = row.stored.segment_scores, row.trace.key
        self.measured.append(
            measure_faithfulness(scores, self.selection, key, confidence, self.args.shares, self.args.draws)
        )

    def summary(self) -> FaithfulnessSummary:
        """The figures over all rows that were measured."""
        return summarize_faithfulness(self.measured, self.args.shares)


@dataclass
class FaithfulnessArguments(MeasurementArguments):
    """
    Arguments of `trl-segment faithfulness`. Extends [`MeasurementArguments`].

    Parameters:
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print how many passes the run takes, and stop. No weight is loaded.
        output_dir (`str`, *optional*, defaults to `"faithfulness"`):
            Folder for `faithfulness.json` and the log-probabilities, which are computed once.
    """

    dry_run: bool = field(default=False, metadata={"help": "Print how many passes the run takes, and stop."})
    output_dir: str = field(
        default="faithfulness", metadata={"help": "Folder for faithfulness.json and what is computed once."}
    )


COMMAND = Command(
    "faithfulness",
    "Compare a selection with random segments of the same share: is it sufficient, is it necessary?",
    (
        Group("store", StoreArguments),
        Group("dataset", DatasetArguments),
        Group("measurement", FaithfulnessArguments),
        Group("model whose confidence in the answer counts, best the one that will be trained", ModelArguments),
        # The seed draws the random segments
        Group("selection", SelectionConfig, without=("transition",)),
    ),
    examples=(
        "trl-segment faithfulness --model_name_or_path MODEL --dataset_name traces.jsonl --attributions scores",
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
    reader = StoreReader(store_args.attributions, data_args.dataset_text_field, store_args.segmenter)
    dataset = load_train_split(data_args)
    wanted = sorted(args.spread(len(dataset)))
    found = reader.attributed(reader.find(row_name(dataset[i], i), dataset[i]) for i in wanted)
    if args.dry_run:
        traces = sum(1 for _ in found)
        passes = 2 + 2 * (len(args.shares) + 1) * (1 + args.draws)
        say(
            f"{traces:,} of {len(dataset):,} rows have scores: at most {passes:,} forward passes a trace, half as "
            f"long as it on average, unless {args.output_dir}/log_probs.jsonl has them. Nothing was loaded or written."
        )
        return
    parser.require(
        "model_name_or_path", model_args.model_name_or_path, "the model whose confidence in the answer counts"
    )
    folder = Path(args.output_dir)
    measurement = Measurement(reader, selection, args, model_args, folder)
    with contextlib.closing(measurement):
        for _ in measurement.watch(progress_bar(found, "Measuring", total=len(wanted))):
            pass
    reader.say_left_out()
    if not measurement.measured:
        raise UserError(f"no row of the dataset has scores in {reader.name!r}. Was it made of another dataset?")
    summary = measurement.summary()
    say(describe_faithfulness(summary, CONFIDENCES[args.confidence]))
    write_json(
        folder / "faithfulness.json",
        {"store": reader.name, "confidence": args.confidence, "selection": asdict(selection), **asdict(summary)},
    )
    note(f"All figures: {folder / 'faithfulness.json'}")


if __name__ == "__main__":
    from .main import run

    run("faithfulness", main)
