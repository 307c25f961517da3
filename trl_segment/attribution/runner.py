"""Attribute many traces into a store."""

import contextlib
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models import process_state
from ..models.compiled import compiled_layers, should_compile
from ..models.passes import wait_for_others
from ..printing import get_logger
from ..progress import progress_bar, show_rate
from ..selection import ReliabilityCount, SelectionConfig
from ..store import AttributionStore, StoredAttribution
from ..traces import AttributedSequence, Trace, describe_names, describe_notes
from .config import AttributionConfig
from .cost import activation_bytes
from .scorers import SCORERS, Scorer, without_reasoning
from .sequences import sequence_of


logger = get_logger(__name__)


@dataclass
class AttributionSummary:
    """
    What a run over traces did.

    Args:
        traces (`int`):
            Traces seen, repeats of one text included.
        attributed (`int`):
            Traces attributed now.
        reused (`int`):
            Traces that the store already held.
        repeated (`int`):
            Traces that repeat an earlier one of this run, text and answer; they share its attributions.
        evaluations (`int`):
            Gradient evaluations spent now.
        hidden (`int`):
            Traces attributed now in which statements of the answer were hidden.
        seconds (`float`):
            Time from the first trace of this process to its last, without what it then waits for others.
        skipped (`dict[str, list[str]]`):
            Names of the traces that cannot be attributed, by reason.
        notes (`dict[str, list[str]]`):
            Names of the traces in which something was taken that the row does not say, by what was taken.
        reliability ([`~trl_segment.selection.ReliabilityCount`]):
            How far the scores of the others can be trusted.
    """

    traces: int = 0
    attributed: int = 0
    reused: int = 0
    repeated: int = 0
    evaluations: int = 0
    hidden: int = 0
    seconds: float = field(default=0.0, compare=False)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    reliability: ReliabilityCount = field(default_factory=ReliabilityCount, compare=False)

    def describe_skipped(self, most: int = 5) -> str:
        """One line per reason, with the first `most` names; empty if nothing was skipped."""
        return describe_names(self.skipped, most)


def attribute_traces(
    traces: Iterable[tuple[str, Trace]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore,
    total: int | None = None,
    progress: bool | None = None,
    selection: SelectionConfig | None = None,
) -> AttributionSummary:
    """
    Attribute traces that the store does not hold yet.

    Over a model that is sharded among processes (ZeRO-3, FSDP2) all of them must call this together, each with its
    traces, of which one may have more than another or none.

    Args:
        traces (`Iterable[tuple[str, Trace]]`):
            Names and traces. A trace that stands in it twice is attributed once.
        model ([`~transformers.PreTrainedModel`]):
            Attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        store ([`AttributionStore`]):
            Opened with [`attribution_settings`] of the same three. Written as the run goes.
        total (`int`, *optional*):
            Number of traces, for the progress bar, and to know whether compiling pays.
        progress (`bool`, *optional*):
            Whether to show one. By default on a terminal.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that the scores are for, with `attribution_stop="decision"`. Defaults to the paper's.

    Returns:
        [`AttributionSummary`]: What was done, and what was skipped and why. Skipped traces are logged by name.

    Raises:
        `ValueError`: If the tokenizer can render no trace at all. The error is that of the first.
    """
    traces = iter(traces)
    scorer = make_scorer(model, config, selection)
    first = list(itertools.islice(traces, scorer.learns_from))
    learn_from(scorer, [trace for _, trace in first], tokenizer, config, store)
    summary = AttributionSummary()
    seen = set()
    tokens, began, fits = 0, time.perf_counter(), False
    waiting: list[tuple[StoredAttribution, Exception]] = []
    bar = progress_bar(itertools.chain(first, traces), "Attributing", total=total, shown=progress)
    compiled = scorer.token_attributions and should_compile(model, config.attribution_compile, total)
    with contextlib.ExitStack() as stack:
        layers = stack.enter_context(compiled_layers(model)) if compiled else None
        # Also when a trace fails
        stack.callback(store.flush)
        for name, trace in bar:
            summary.traces += 1
            row = store.get(trace.key)
            if row is not None:
                summary.repeated += trace.key in seen
                summary.reused += trace.key not in seen
            else:
                sequence, problem, error = _read(trace, scorer, tokenizer, config)
                if sequence is None:
                    row = StoredAttribution(key=trace.key, name=name, problem=problem)
                else:
                    row = _attribute(name, trace, scorer, sequence, layers)
                if error is not None and not fits:
                    # Until one trace has gone well it may be the tokenizer that does not fit, and not the traces
                    waiting.append((row, error))
                else:
                    store.add(row)
                summary.attributed += row.problem is None
                summary.hidden += row.problem is None and sequence.hidden_tokens > 0
                summary.evaluations += row.evaluations
                tokens += row.sequence_tokens * row.evaluations
                show_rate(bar, tokens, summary.evaluations, summary.attributed)
            if trace.key not in seen:
                summary.reliability.add(name, row.reliability, row.gain)
            seen.add(trace.key)
            if row.problem is None and not fits:
                fits = True
                for earlier, _ in waiting:
                    store.add(earlier)
            if trace.note is not None:
                summary.notes.setdefault(trace.note, []).append(name)
            if row.problem is not None:
                summary.skipped.setdefault(row.problem, []).append(name)
        if waiting and not fits and process_state().num_processes == 1:
            row, error = waiting[0]
            raise ValueError(f"{row.name}: {_describe(error)}") from error
        for row, _ in () if fits else waiting:
            store.add(row)
        summary.seconds = time.perf_counter() - began
    wait_for_others(model, scorer.lockstep)
    skipped = sum(map(len, summary.skipped.values()))
    if skipped:
        logger.warning(
            f"{skipped} of {summary.traces} traces cannot be attributed and will be trained in full:\n"
            + summary.describe_skipped()
        )
    if summary.notes:
        logger.warning(describe_notes(summary.notes, summary.traces))
    unsettled = summary.reliability.warning(store.settings.options)
    if unsettled is not None:
        logger.warning(unsettled)
    unread = summary.reliability.unread_warning()
    if unread is not None:
        logger.warning(unread)
    if summary.repeated:
        logger.warning(f"{summary.repeated} of {summary.traces} traces repeat an earlier one and share its scores.")
    return summary


def make_scorer(model: PreTrainedModel, config: AttributionConfig, selection: SelectionConfig | None = None) -> Scorer:
    """
    The scorer that a config names.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Attribution model.
        config ([`AttributionConfig`]):
            Settings.
        selection ([`~trl_segment.SelectionConfig`], *optional*):
            Thresholds that the scores are for.

    Returns:
        [`~trl_segment.attribution.Scorer`]: Ready to score.
    """
    return SCORERS[config.attribution_scorer].from_config(model, config, selection)


def learn_from(
    scorer: Scorer,
    traces: list[Trace],
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore,
) -> None:
    """
    Let a scorer learn what it learns from the first traces of a run.

    Args:
        scorer ([`~trl_segment.attribution.Scorer`]):
            Scorer.
        traces (`list[Trace]`):
            The first traces.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of its model.
        config ([`AttributionConfig`]):
            Settings.
        store ([`~trl_segment.AttributionStore`]):
            Keeps what is learned.
    """
    if scorer.learns_from:
        sequences = []
        for trace in traces:
            # What cannot be rendered is named when its turn comes
            with contextlib.suppress(Exception):
                sequences.append(sequence_of(trace, tokenizer, scorer.model.config, config)[0])
        scorer.learn([sequence for sequence in sequences if sequence is not None], store)


def _score(scorer, trace, sequence, layers):
    """The scores of a sequence, and without compiled layers if compiling fails."""
    arguments = (sequence.input_ids, sequence.target, sequence.segments)
    if scorer.reads_text:
        arguments = (*arguments, [trace.completion[start:end] for start, end in trace.segments])
    try:
        return scorer.attribute(*arguments)
    except Exception as error:
        if layers is None or not layers.caused(error):
            raise
        layers.undo()
        reason = " ".join(str(error).split()[:40])
        logger.warning(f"The model's layers could not be compiled and run as they are: {reason}")
    return scorer.attribute(*arguments)


def _describe(error: Exception) -> str:
    # Templates raise whatever they like
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _read(trace, scorer, tokenizer, config) -> tuple[AttributedSequence | None, str | None, Exception | None]:
    """The sequence of a trace, or why there is none, and the error if that is because it cannot be rendered."""
    try:
        return *sequence_of(trace, tokenizer, scorer.model.config, config), None
    except Exception as error:
        return None, f"it cannot be rendered ({_describe(error)})", error


def _attribute(name, trace, scorer, sequence, layers) -> StoredAttribution:
    try:
        result = _score(scorer, trace, sequence, layers)
    except MemoryError as error:
        least = activation_bytes(scorer.model.config, len(sequence.input_ids), scorer.model.dtype.itemsize, True)
        raise MemoryError(
            f"{name}: {error} By estimate it needs {float(least) / 2**30:,.1f} GiB of activations beside the weights. "
            "Traces that are stored already stay stored."
        ) from error
    if not result.finite:
        problem = "the attributions are not finite (NaN or infinite)"
        return StoredAttribution(key=trace.key, name=name, problem=problem)
    segments, reliability = result.segments, result.reliability
    if (segments.strength < 0).any():
        return StoredAttribution(key=trace.key, name=name, problem="the scorer gave a negative strength")
    return StoredAttribution(
        key=trace.key,
        name=name,
        num_tokens=segments.num_tokens.tolist(),
        sum_abs=None if segments.sum_abs is None else segments.sum_abs.tolist(),
        sum_signed=None if segments.sum_signed is None else segments.sum_signed.tolist(),
        scores=None if segments.scores is None else segments.scores.tolist(),
        sequence_tokens=len(sequence.input_ids),
        f_input=result.f_input,
        f_baseline=without_reasoning(scorer, sequence) if result.f_baseline is None else result.f_baseline,
        completeness_gap=result.completeness_gap,
        defect=result.defect,
        evaluations=result.evaluations,
        stopped_by=result.stopped_by,
        l1=None if reliability is None else reliability.l1,
        variation=None if reliability is None else reliability.variation,
        halves_correlation=None if reliability is None else reliability.halves_correlation,
        halves_agreement=None if reliability is None else reliability.halves_agreement,
    )
