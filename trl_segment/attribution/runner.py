"""Attribute many traces into a store."""

import hashlib
import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..progress import progress_bar, show_rate
from ..selection import SelectionConfig
from ..traces import AttributedSequence, Trace, TraceConfig, attributed_sequence
from .config import AttributionConfig
from .cost import activation_bytes
from .integrated_gradients import IntegratedGradients, resolve_baseline
from .loading import process_state
from .marginal import COUNTERFACTUAL_ROUNDS, BackwardSweep
from .passes import unwrap_adapter
from .quadrature import default_evaluations
from .recursive import RecursiveAttribution
from .scorers import SWEEPS, SegmentScorer
from .sharding import gathered
from .store import AttributionStore, StoredAttribution


logger = logging.get_logger(__name__)

# Raised when the same inputs give other scores than before
_SCORES_VERSION = 1

# What a model's config says besides what it computes; weights, precision and baseline have settings of their own
_NOT_COMPUTATION = {
    *("_name_or_path", "_attn_implementation", "architectures", "auto_map", "dtype", "model_type", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config", "transformers_version", "use_cache"),
}

# From how many traces at the start the rule "density" learns where to place its nodes
_DENSITY_TRACES = 8


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
        seconds (`float`):
            Time from the first trace of this process to its last, without what it then waits for others.
        skipped (`dict[str, list[str]]`):
            Names of the traces that cannot be attributed, by reason.
    """

    traces: int = 0
    attributed: int = 0
    reused: int = 0
    repeated: int = 0
    evaluations: int = 0
    seconds: float = field(default=0.0, compare=False)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def describe_skipped(self, most: int = 5) -> str:
        """One line per reason, with the first `most` names; empty if nothing was skipped."""
        return "\n".join(
            f"  {len(names)} x {reason}: {', '.join(names[:most])}{', ...' if len(names) > most else ''}"
            for reason, names in self.skipped.items()
        )


def attribution_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: AttributionConfig, autocast: str = "no"
) -> dict[str, Any]:
    """
    Everything that changes the scores of a trace, for the store.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        autocast (`str`, *optional*, defaults to `"no"`):
            Mixed precision that accelerate runs the model in.

    Returns:
        `dict`: JSON-compatible.
    """
    baseline = resolve_baseline(model, config.attribution_baseline)
    evaluations = config.attribution_evaluations
    decision = {}
    if config.attribution_stop == "decision":
        decision = {field.name: getattr(_thresholds(config), field.name) for field in fields(SelectionConfig)}
    template = hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()[:16]
    return {
        "scores_version": _SCORES_VERSION,
        "model_type": model.config.model_type,
        "config": _config_fingerprint(model.config),
        "weights": weights_fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "autocast": autocast,
        "tokenizer": _tokenizer_fingerprint(tokenizer),
        "chat_template": template,
        **{field.name: getattr(config, field.name) for field in fields(TraceConfig)},
        "scorer": config.attribution_scorer,
        **({"threshold": config.attribution_threshold} if config.attribution_scorer in SWEEPS else {}),
        "rule": config.attribution_rule,
        "evaluations": default_evaluations(config.attribution_rule) if evaluations is None else evaluations,
        "tolerance": config.attribution_tolerance,
        "stop": config.attribution_stop,
        "decision": decision,
        "noise_samples": config.attribution_noise_samples,
        "path": config.attribution_path,
        "baseline": str(config.attribution_baseline),
        "baseline_token": baseline if isinstance(baseline, int) else None,
        "answer_template": config.answer_template,
    }


def _config_fingerprint(config) -> str:
    """Hash of what a model's config says about its computation: rotary base, windows, soft caps, ..."""
    values = {name: value for name, value in config.to_diff_dict().items() if name not in _NOT_COMPUTATION}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _tokenizer_fingerprint(tokenizer) -> str:
    """Hash of a tokenizer: vocabulary, merges, how text is normalized and split."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content = sorted(tokenizer.get_vocab().items())
    else:
        # How it was last asked to pad and cut is kept in it too
        content = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def weights_fingerprint(model: torch.nn.Module) -> str:
    """
    Hash of a model's weights, from every parameter's name, shape and up to 64 of its values.

    Args:
        model (`torch.nn.Module`):
            A model, or a PEFT model: its adapter does not count, so base model and adapter model agree. It may be
            sharded: then all processes must call this, and the result is that of the whole model.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    base = unwrap_adapter(model)
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)
    adapter_parts = [part for part in (prefix, "modules_to_save.", "trainable_tokens_") if part]
    named = {}
    for name, parameter in base.named_parameters():
        if base is not model:
            if any(part in name for part in adapter_parts):
                continue
            for wrapper in (".base_layer", ".original_module", ".token_adapter"):
                name = name.replace(wrapper, "")
        named[name.replace("_checkpoint_wrapped_module.", "")] = parameter
    digest = hashlib.sha256()
    for name in sorted(named):
        with gathered(named[name]) as parameter:
            flat = parameter.flatten()
            sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]


def attribute_traces(
    traces: Iterable[tuple[str, Trace]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore,
    total: int | None = None,
    progress: bool | None = None,
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
            Number of traces, for the progress bar.
        progress (`bool`, *optional*):
            Whether to show one. By default on a terminal.

    Returns:
        [`AttributionSummary`]: What was done, and what was skipped and why. Skipped traces are logged by name.
    """
    traces = iter(traces)
    first = list(itertools.islice(traces, _DENSITY_TRACES)) if config.attribution_rule == "density" else []
    engine = _make_engine(model, tokenizer, config, store, [trace for _, trace in first])
    summary = AttributionSummary()
    seen = set()
    tokens, began = 0, time.perf_counter()
    bar = progress_bar(itertools.chain(first, traces), "Attributing", total=total, shown=progress)
    try:
        for name, trace in bar:
            summary.traces += 1
            row = store.get(trace.key)
            if row is not None:
                summary.repeated += trace.key in seen
                summary.reused += trace.key not in seen
            else:
                row = _attribute(name, trace, engine, tokenizer, config)
                store.add(row)
                summary.attributed += row.problem is None
                summary.evaluations += row.evaluations
                tokens += row.sequence_tokens * row.evaluations
                show_rate(bar, tokens, summary.evaluations, summary.attributed)
            seen.add(trace.key)
            if row.problem is not None:
                summary.skipped.setdefault(row.problem, []).append(name)
        summary.seconds = time.perf_counter() - began
    finally:
        store.flush()
    engine.lockstep.wait_for_others()
    skipped = sum(map(len, summary.skipped.values()))
    if skipped:
        logger.warning(
            f"{skipped} of {summary.traces} traces cannot be attributed and will be trained in full:\n"
            + summary.describe_skipped()
        )
    if summary.repeated:
        logger.warning(f"{summary.repeated} of {summary.traces} traces repeat an earlier one and share its scores.")
    return summary


def deal_by_length(lengths: Sequence[int], hands: int) -> list[np.ndarray]:
    """
    Deal traces so that all get about the same sum of lengths: the longest first, each to who has least.

    Processes that share a model's parameters wait for one another at every pass: dealt like this, they are at traces
    of similar length at the same time.

    Args:
        lengths (`Sequence[int]`):
            Length of each trace.
        hands (`int`):
            Number of processes.

    Returns:
        `list[np.ndarray]`: Positions in `lengths` for each process, the longest first.
    """
    dealt = [[] for _ in range(hands)]
    held = [(0, hand) for hand in range(hands)]
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        total, hand = held[0]
        dealt[hand].append(index)
        heapq.heapreplace(held, (total + int(lengths[index]), hand))
    return [np.array(indices, dtype=np.int64) for indices in dealt]


def share_of_rows(rows: Sequence[int], read: Callable[[int], Trace], store: AttributionStore) -> Sequence[int]:
    """
    The rows that this process attributes, of those that it and the others share. All must call it together.

    Rows that the store does not hold are dealt by the length of their text, and rows with the same trace go to one
    process; those that cost nothing are dealt in turn. So what is computed does not depend on the number of processes.

    Args:
        rows (`Sequence[int]`):
            Row numbers, the same on every process.
        read (`Callable[[int], Trace]`):
            Reads a row.
        store ([`AttributionStore`]):
            What is attributed already; the main process's counts.

    Returns:
        `Sequence[int]`: Row numbers, the longest trace first. In a run of one process `rows`.
    """
    state = process_state()
    if state.num_processes == 1:
        return rows
    described = []
    for row in rows[state.process_index :: state.num_processes]:
        trace = read(row)
        prompt = trace.prompt if isinstance(trace.prompt, str) else json.dumps(trace.prompt, default=str)
        length = len(prompt) + trace.reasoning[1] if trace.problem is None else 0
        described.append((row, trace.key, length))
    described = gather_object(described)
    shares = [None]
    if state.is_main_process:
        rows_of = {}
        for row, key, length in sorted(described):
            rows_of.setdefault((key, 0 if key in store else length), []).append(row)
        costly = [(length, same) for (_, length), same in rows_of.items() if length > 0]
        free = [same for (_, length), same in rows_of.items() if length == 0]
        hands = deal_by_length([length for length, _ in costly], state.num_processes)
        groups = [[costly[index][1] for index in dealt] + free[hand :: len(hands)] for hand, dealt in enumerate(hands)]
        shares[0] = [list(itertools.chain.from_iterable(same)) for same in groups]
    broadcast_object_list(shares)
    return shares[0][state.process_index]


def describe_balance(summary: AttributionSummary) -> str:
    """
    How evenly the processes of a run were loaded. All must call it together.

    Args:
        summary ([`AttributionSummary`]):
            This process's.

    Returns:
        `str`: One line with the ratio of the slowest process's time to the mean, empty in a run of one process.
    """
    seconds = np.array(gather_object([summary.seconds]))
    if len(seconds) == 1:
        return ""
    ratio = seconds.max() / max(seconds.mean(), 1e-9)
    return f"{len(seconds)} processes, busy for {seconds.mean():,.1f} s on average, the slowest {ratio:.2f} times that"


def _make_engine(
    model, tokenizer, config, store, first_traces
) -> IntegratedGradients | SegmentScorer | BackwardSweep | RecursiveAttribution:
    if config.attribution_scorer in SWEEPS:
        rounds = COUNTERFACTUAL_ROUNDS if config.attribution_scorer == "counterfactual" else 0
        return BackwardSweep(model, config.attribution_threshold, rounds, config.attribution_max_tokens)
    if config.attribution_scorer == "recursive":
        return RecursiveAttribution(model, baseline=resolve_baseline(model, config.attribution_baseline))
    if config.attribution_scorer != "integrated_gradients":
        return SegmentScorer(model, config.attribution_scorer, config.attribution_max_tokens)
    engine = IntegratedGradients(
        model,
        rule=config.attribution_rule,
        evaluations=config.attribution_evaluations,
        tolerance=config.attribution_tolerance,
        stop=config.attribution_stop,
        selection=_thresholds(config),
        path=config.attribution_path,
        baseline=config.attribution_baseline,
        noise_samples=config.attribution_noise_samples,
        max_tokens_per_forward=config.attribution_max_tokens,
    )
    if config.attribution_rule == "density":
        engine.density = store.read_array("density")
        if engine.density is None:
            sequences = [_sequence(trace, tokenizer, model, config)[0] for trace in first_traces]
            sequences = [(s.input_ids, s.target, s.segments) for s in sequences if s is not None]
            if sequences:
                engine.density = engine.learn_density(sequences)
                store.write_array("density", engine.density)
    return engine


def _thresholds(config) -> SelectionConfig:
    """The thresholds that a decision is for: those of the run, or the paper's."""
    return config if isinstance(config, SelectionConfig) else SelectionConfig()


def _sequence(trace, tokenizer, model, config) -> tuple[AttributedSequence | None, str | None]:
    """The attributed sequence, or why there is none."""
    if trace.problem is not None:
        return None, trace.problem
    if len(trace.segments) < 2:
        return None, "one segment only, nothing to select"
    sequence = attributed_sequence(trace, tokenizer, config.answer_template)
    if sequence.problem is not None:
        return None, sequence.problem
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and len(sequence.input_ids) > longest:
        return None, f"longer than the attribution model's {longest:,} positions"
    return sequence, None


def _attribute(name, trace, engine, tokenizer, config) -> StoredAttribution:
    sequence, problem = _sequence(trace, tokenizer, engine.model, config)
    if problem is not None:
        return StoredAttribution(key=trace.key, name=name, problem=problem)
    try:
        result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
    except MemoryError as error:
        least = activation_bytes(engine.model.config, len(sequence.input_ids), engine.model.dtype.itemsize, True)
        raise MemoryError(
            f"{name}: {error} By estimate it needs {float(least) / 2**30:,.1f} GiB of activations beside the weights. "
            "Traces that are stored already stay stored."
        ) from error
    if not result.finite:
        problem = "the attributions are not finite (NaN or infinite)"
        return StoredAttribution(key=trace.key, name=name, problem=problem)
    return StoredAttribution(
        key=trace.key,
        name=name,
        num_tokens=result.num_tokens.tolist(),
        sum_abs=result.sum_abs.tolist(),
        sum_signed=result.sum_signed.tolist(),
        sequence_tokens=len(sequence.input_ids),
        f_input=result.f_input,
        f_baseline=result.f_baseline,
        completeness_gap=result.completeness_gap,
        defect=result.defect,
        evaluations=result.evaluations,
        stopped_by=result.stopped_by,
    )
