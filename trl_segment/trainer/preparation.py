"""Dataset preparation around TRL's: which steps a dataset goes through, and what of it stays in the cache."""

import copy
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher, generate_random_fingerprint
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl import pack_dataset

from .. import traces
from ..configs import config_of
from ..models import check_tokenizer
from ..printing import get_logger
from ..selection import SelectionConfig
from ..store import open_store
from ..traces import Trace, UnplacedError, naming_errors, render_prompt, row_name
from ..traces.columns import COLUMN_OPTIONS
from . import rows as row_steps
from ._trl_compat import PREPARED_COLUMNS, main_process_first
from .rows import (
    DESCRIBED,
    EVAL_UNITS_COLUMN,
    UNITS_COLUMN,
    UNPLACED_COLUMN,
    StreamedOffsets,
    TraceReader,
    add_units,
    carry_trace,
    cut_units,
    describe_trace,
    place_units,
    prune,
    question_to_messages,
    render_verbatim,
)
from .segment_table import SegmentTable


if TYPE_CHECKING:
    from .config import SegmentSelectiveSFTConfig


logger = get_logger(__name__)

# What the bar of each step says
_STEPS = {
    "questions": "Making prompts of questions",
    "described": "Finding segments",
    "verbatim": "Rendering completions as they are",
    "units": "Finding tokens of segments",
}

# Everything that decides where segments lie. `datasets` knows functions of modules by their names alone: its cached
# steps would outlive a correction of them.
_SHAPED_BY = [Path(row_steps.__file__), *sorted(Path(traces.__file__).parent.glob("*.py"))]


@functools.cache
def _code_version() -> str:
    digest = hashlib.sha256()
    for path in _SHAPED_BY:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def map_fingerprint(dataset: Dataset, step: str, tokenizer: PreTrainedTokenizerBase | None, *parts: Any) -> str:
    """
    Fingerprint of one of our steps: of this package's code, and of a tokenizer without pickling its whole vocabulary.

    Args:
        dataset ([`~datasets.Dataset`]):
            What the step is applied to.
        step (`str`):
            Its name.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            A fast tokenizer that it uses; its own serialization counts.
        *parts:
            Everything else that changes what comes out.

    Returns:
        `str`: For `map(..., new_fingerprint=...)`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelled = None if backend is None else backend.to_str()
    template = None if tokenizer is None else tokenizer.chat_template
    try:
        return Hasher.hash([dataset._fingerprint, step, _code_version(), spelled, template, *parts])
    except Exception:
        # A user's function that cannot be hashed, by whatever it raises: nothing is cached, as in `datasets` itself
        return generate_random_fingerprint()


class Preparation:
    """
    Dataset preparation around TRL's: rows become text, tokens learn the number of their segment.

    Args:
        args ([`~trl_segment.SegmentSelectiveSFTConfig`]):
            Configuration.
        reader ([`TraceReader`]):
            Reads rows.

    Attributes:
        table ([`~trl_segment.trainer.SegmentTable`] or `None`):
            Segments of the training set, once it is prepared.
        eval_table ([`~trl_segment.trainer.SegmentTable`] or `None`):
            Segments of evaluation sets, with `eval_selective`.
        trace_sets (`list[tuple[Dataset, Dataset]]`):
            Rows of both as they were, and where their segments lie.
        unplaced (`set[int]`):
            Rows that are trained in full because their segments have no place among their tokens, numbered as in
            [`~Preparation.get_trace`].
    """

    def __init__(self, args: "SegmentSelectiveSFTConfig", reader: TraceReader):
        self.args, self.reader = args, reader
        self.table: SegmentTable | None = None
        self.eval_table: SegmentTable | None = None
        self.trace_sets: list[tuple[Dataset, Dataset]] = []
        self.unplaced: set[int] = set()
        self.cuts_traces = False
        # With every segment kept there is nothing to number
        self.selective = args.selection != "all"
        self.numbers_evaluation = self.selective and args.eval_selective
        self._trains_questions = False

    def begin(self, dataset):
        """
        The training set as the parent's constructor is to see it: it looks at the columns to decide what the loss is
        on.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
                Training set.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.IterableDataset`]: With prompts and completions for question rows.
        """
        if self.reader.config.names_columns and self.reader.formatting_func is not None:
            raise ValueError(
                "`formatting_func` makes one text of a row, so no option names its columns. Leave out "
                f"`formatting_func`, or {', '.join(f'`{name}`' for name in COLUMN_OPTIONS)}."
            )
        self._trains_questions = self.has_questions(dataset)
        if self._trains_questions and self.args.assistant_only_loss and self.args.completion_rendering != "template":
            raise ValueError(
                "`assistant_only_loss=True` needs the chat template's marks, but rows of questions and solutions are "
                "rendered verbatim. Leave it out: their loss is on the solution alone. Or set "
                "`completion_rendering='template'` with a template that keeps the reasoning."
            )
        with main_process_first():
            return self.as_prompt_completion(dataset)

    def has_questions(self, dataset) -> bool:
        """Whether the rows are in none of TRL's formats, or are to be read from columns that the user has named."""
        columns = column_names(dataset)
        if self.reader.formatting_func or "input_ids" in columns or row_steps.OVERWRITTEN_COLUMN in columns:
            return False
        return self.reader.config.names_columns or not self._has_text(columns)

    def _has_text(self, columns):
        """Whether these are the columns of one of TRL's text formats."""
        text_formats = (
            {"prompt", "completion"},
            {"messages"},
            {"conversations"},
            {"images"},
            {"image"},
            {self.reader.text_column},
        )
        return any(text_format <= columns for text_format in text_formats)

    def as_prompt_completion(self, dataset):
        """Question and solution rows as conversational prompt-completion rows; other formats as they are."""
        if not self.has_questions(dataset):
            return dataset
        config = self.reader.config
        named = {getattr(config, option) for option in COLUMN_OPTIONS}
        # TRL would take them for the rows' text
        others = {"messages", "conversations", self.reader.text_column} - named - {config.answer_column}
        return self._map(
            dataset,
            question_to_messages,
            "questions",
            with_indices=True,
            fn_kwargs={"reader": self.reader},
            remove_columns=sorted(others & column_names(dataset)),
        )

    def prepare(self, dataset, tokenizer, args, packing, formatting_func, name, chat_template, parent):
        """
        Prepare a dataset. The parameters are those of [`~trl.SFTTrainer`]'s own step, and:

        Args:
            chat_template (`str` or `None`):
                Template that TRL renders with, if not the tokenizer's.
            parent (`Callable`):
                TRL's step.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.IterableDataset`]: Tokens, labels and, for the training set and for
            evaluation sets with `eval_selective`, the column of units.

        Raises:
            `ValueError`: If the segments of no row can be found among its tokens.
        """
        if isinstance(tokenizer, ProcessorMixin):
            if self.selective:
                raise ValueError(
                    f"The model's processor is a {type(tokenizer).__name__}, for a model that sees images. Pass its "
                    "tokenizer as `processing_class` to train on text alone, or `selection='all'` to train as "
                    "SFTTrainer does."
                )
            return parent(dataset, tokenizer, args, packing, formatting_func, name)
        check_tokenizer(tokenizer)
        training = self.selective and name == "train" and self.table is None
        questions = self.has_questions(dataset) or (name == "train" and self._trains_questions)
        verbatim = args.completion_rendering == "verbatim" or (args.completion_rendering == "auto" and questions)
        # Datasets that are passed to `evaluate` arrive here first
        dataset = self.as_prompt_completion(dataset)
        if not training:
            dataset = without_units(dataset)
        streaming = isinstance(dataset, IterableDataset)
        tokenized = "input_ids" in column_names(dataset)
        numbered = training or (self.numbers_evaluation and not streaming)
        if training and tokenized and not self._has_text(column_names(dataset)):
            raise ValueError(
                "`train_dataset` is already tokenized (it has 'input_ids') and has no text beside the tokens, so its "
                "segments cannot be found. Keep the columns that it was tokenized from, in any format that SFTTrainer "
                "takes, or pass the text alone."
            )
        rows = described = offsets = None
        if numbered:
            dataset, rows, described, offsets = self._number(dataset, training, questions)
        if verbatim and not tokenized:
            dataset = self._map(
                dataset,
                render_verbatim,
                "verbatim",
                tokenizer,
                with_indices=True,
                fn_kwargs={"tokenizer": tokenizer, "reader": self.reader},
                remove_columns=sorted({"messages", "conversations"} & column_names(dataset)),
            )
        if not numbered:
            return _naming_rows(parent, dataset, tokenizer, args, packing, formatting_func, name)
        if not streaming and not tokenized:
            # A template that loses the question is found before TRL tokenizes with it
            self._check_prompts(rows, tokenizer)
        # The parent tokenizes and builds labels, of everything, in order
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        dataset = _naming_rows(parent, dataset, tokenizer, whole, False, formatting_func, name)
        pruned = training and args.dropped_segments == "prune"
        if not streaming and args.max_length is not None and training and not pruned:
            self._report_cut(dataset, args.max_length, splits=packing and args.packing_strategy != "bfd")
        column = UNITS_COLUMN if training else EVAL_UNITS_COLUMN
        # Packing cuts by itself; otherwise the units are cut as the parent is about to cut tokens and labels
        cut = (None, None)
        if args.max_length is not None and not packing:
            cut = (-args.max_length, None) if args.truncation_mode == "keep_end" else (None, args.max_length)
        places = {
            "offsets": offsets,
            "chat_template": chat_template,
            "cut": (None, None) if pruned else cut,
            "tokenized": tokenized,
            "column": column,
        }
        sources = {"rows": rows, "described": described, "reader": self.reader, "tokenizer": tokenizer}
        place = functools.partial(
            place_units,
            **sources,
            **{name: places[name] for name in ("offsets", "chat_template", "tokenized")},
        )
        tokens = dataset
        dataset = self._map(
            tokens,
            add_units,
            "units",
            tokenizer,
            *places.values(),
            with_indices=True,
            fn_kwargs={**sources, **places},
        )
        if streaming:
            _check_some_fit(tokens, place)
        else:
            dataset = self._leave_out(dataset, tokens, place, training)
        if pruned:
            dataset = self._prune(dataset, cut)
        if not packing:
            return parent(dataset, tokenizer, args, False, None, name)
        return self._pack(dataset, args, column)

    def _check_prompts(self, rows, tokenizer):
        """That the template renders the prompt of one row at least."""
        error = None
        for index, row in enumerate(rows):
            trace = self.reader.text_of(row)
            if not trace.prompt:
                continue
            try:
                with naming_errors(row_name(row, index)):
                    render_prompt(trace, tokenizer)
                return
            except ValueError as problem:
                error = error or problem
        if error is not None:
            raise error

    def _leave_out(self, dataset, tokens, place, training):
        """Rows whose segments could not be placed are trained in full, unless there is no other."""
        reasons = dict(enumerate(dataset.with_format("arrow")[:][UNPLACED_COLUMN].to_pylist()))
        unplaced = {number: reason for number, reason in reasons.items() if reason}
        table = self.table if training else self.eval_table
        first = len(table.keys) - len(reasons)
        if unplaced:
            segmented = np.flatnonzero(table.num_segments[first:])
            if len(segmented) == len(unplaced):
                number = min(unplaced)
                with naming_errors(table.names[first + number]):
                    place(tokens[number], number)  # which says what is wrong with it
            table.leave_out({first + number: reason for number, reason in unplaced.items()})
            before = self.num_traces - len(reasons)
            self.unplaced |= {before + number for number in unplaced}
            names: dict[str, list[str]] = {}
            for number, reason in unplaced.items():
                names.setdefault(reason, []).append(table.names[first + number])
            logger.warning(
                f"{len(unplaced)} of {len(reasons)} traces are trained in full, since their segments have no place "
                f"among their tokens:\n{traces.describe_names(names)}"
            )
        return dataset.remove_columns(UNPLACED_COLUMN)

    def _map(self, dataset, function, step, tokenizer=None, *parts, **kwargs):
        if isinstance(dataset, IterableDataset):
            return dataset.map(function, **kwargs)
        fingerprint = map_fingerprint(dataset, step, tokenizer, self.reader.described(), *parts)
        return dataset.map(
            function,
            num_proc=self.args.dataset_num_proc,
            new_fingerprint=fingerprint,
            desc=_STEPS[step],
            **kwargs,
        )

    def _prune(self, dataset, cut):
        """What is left is trained in full, so that the units have done their work."""
        self.table.fill(open_store(self.args.attributions), config_of(SelectionConfig, self.args))
        num_proc = self.args.dataset_num_proc
        dataset = dataset.map(
            prune, fn_kwargs={"trained": self.table.trained.numpy()}, num_proc=num_proc, desc="Pruning segments"
        )
        return dataset.map(cut_units, fn_kwargs={"cut": cut}, num_proc=num_proc, desc="Cutting segments")

    def _pack(self, dataset, args, column):
        """The parent's packing drops the column of units, so these few lines stand in for it."""
        if args.max_length is None:
            raise ValueError("When packing is enabled, `max_length` can't be `None`.")
        dataset = dataset.select_columns([*PREPARED_COLUMNS, column])
        map_kwargs = {} if isinstance(dataset, IterableDataset) else {"num_proc": args.dataset_num_proc}
        if args.shuffle_dataset:
            dataset = dataset.shuffle(seed=args.seed)
        dataset = pack_dataset(dataset, args.max_length, args.packing_strategy, map_kwargs)
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset

    def _report_cut(self, dataset, max_length, splits):
        """Name the traces that are longer than what is trained of them."""
        lengths = pc.list_value_length(dataset.with_format("arrow")[:]["input_ids"]).to_numpy()
        long = np.flatnonzero(lengths > max_length)
        if len(long) and not splits:
            self.cuts_traces = True
            most = "MOST TRACES LOSE THEIR END: " if 2 * len(long) > len(lengths) else ""
            names = [self.table.names[index] for index in long[:5]]
            logger.warning(
                f"{most}{len(long)} of {len(lengths)} traces are longer than max_length={max_length:,} tokens (the "
                f"longest has {lengths.max():,}) and are cut; segments beyond it are not trained, kept or not: "
                f"{', '.join(names)}{', ...' if len(long) > 5 else ''}"
            )

    def _number(self, dataset, training, questions):
        """Make or extend a table of segments; the dataset, its rows as they are, and what to add to their units."""
        if isinstance(dataset, IterableDataset):
            # Which rows will come is not known, but what can come is: what the store holds
            columns = [], [], [], []
            for row in open_store(self.args.attributions).values():
                for column, value in zip(columns, (row.key, row.name, len(row.num_tokens), row.problem), strict=True):
                    column.append(value)
            self.table = table = SegmentTable(*columns)
            offsets = StreamedOffsets(table)
            carried = {"reader": self.reader, "question": questions}
            return dataset.map(carry_trace, with_indices=True, fn_kwargs=carried), None, None, offsets
        # As Python objects, whatever format the user has set
        rows = dataset.with_format(None)
        described = self._map(
            rows,
            describe_trace,
            "described",
            None,
            questions,
            with_indices=True,
            fn_kwargs={"reader": self.reader, "question": questions},
            remove_columns=rows.column_names,
            features=DESCRIBED,
        )
        columns = described.with_format("arrow")[:]
        table = SegmentTable(*(columns[name] for name in ("key", "name", "num_segments", "problem")))
        self.trace_sets.append((rows, described))
        notes: dict[str, list[str]] = {}
        for name, note in zip(columns["name"].to_pylist(), columns["note"].to_pylist(), strict=True):
            if note is not None:
                notes.setdefault(note, []).append(name)
        if notes:
            logger.warning(traces.describe_notes(notes, len(rows)))
        offsets = table.offsets
        if training:
            self.table = table
        elif self.eval_table is None:
            self.eval_table = table
        else:
            offsets = self.eval_table.extend(table)
        return dataset, rows, described, offsets

    @property
    def num_traces(self) -> int:
        """Number of rows with numbered segments: of the training set before packing, then of evaluation sets."""
        return sum(len(rows) for rows, _ in self.trace_sets)

    def get_trace(self, index: int) -> tuple[str, Trace]:
        """
        Name and trace of a row.

        Args:
            index (`int`):
                Row number, counted through the training set and on through the evaluation sets.

        Returns:
            `tuple[str, Trace]`: Both.
        """
        if not 0 <= index < self.num_traces:
            raise IndexError(f"There is no trace {index}: {self.num_traces} are attributed.")
        for rows, described in self.trace_sets:  # noqa: B007
            if index < len(rows):
                break
            index -= len(rows)
        return described[index]["name"], self.reader.restore(rows[index], described[index])


def _naming_rows(parent, dataset, *arguments):
    """TRL's step. Where it stops at a row, the error says which: TRL's own speaks of keys and types alone."""
    try:
        return parent(dataset, *arguments)
    except Exception as error:
        if not isinstance(dataset, Dataset):
            raise
        index = _first_failing(lambda part: parent(part, *arguments), dataset)
        if index is None and isinstance(error, ValueError):
            raise  # of what was asked for, and not of a row
        index = index or 0
        raise ValueError(
            f"{row_name(dataset[index], index)}: SFTTrainer cannot prepare this row ({type(error).__name__}: {error})."
            " Correct it, or filter it out."
        ) from error


# Rows of a stream of which one must fit
_LOOKED_AT = 1000


def _check_some_fit(tokens: IterableDataset, place) -> None:
    """That the segments of one row at least, of the first of a stream, have a place among their tokens."""
    error = None
    for index, row in enumerate(tokens.take(_LOOKED_AT)):
        try:
            with naming_errors(row_name(row, index)):
                if place(row, index).any():
                    return
        except ValueError as problem:
            if not isinstance(problem.__cause__ or problem, UnplacedError):
                return  # it is said when the row comes
            error = error or problem
    if error is not None:
        raise error


def _first_failing(step, dataset: Dataset) -> int | None:
    """Number of the first row that a step fails at, found by halves; `None` if it fails at all of them alike."""

    def fails(start, end):
        try:
            step(dataset.select(range(start, end)))
        except Exception:
            return True
        return False

    low, high = 0, len(dataset)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(low, middle) else (middle, high)
    of_its_own = fails(low, high) and any(not fails(other, other + 1) for other in {0, len(dataset) - 1} - {low})
    return low if of_its_own else None


def column_names(dataset) -> set[str]:
    """Names of a dataset's columns; a streamed one may not know them before its first row."""
    return set(dataset.column_names or next(iter(dataset)))


def without_units(dataset):
    """A dataset that was prepared for training, as one to evaluate on."""
    prepared = hasattr(dataset, "column_names") and UNITS_COLUMN in (dataset.column_names or ())
    return dataset.remove_columns(UNITS_COLUMN) if prepared else dataset
