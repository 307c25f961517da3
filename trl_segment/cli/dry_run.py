"""`--dry_run`: the plan and the cost of `attribute` and `sft`, without loading a weight."""

import math
import os
from types import SimpleNamespace

import numpy as np
import torch

from ..attribution import AttributionConfig
from ..attribution.cost import TFLOPS_BY_PRECISION, count_weights, estimate_cost, forward_flops
from ..attribution.memory import fits
from ..attribution.plan import plan_attribution
from ..configs import config_of
from ..models import load_config, load_tokenizer
from ..models.precision import split_precision
from ..progress import progress_bar
from ..selection import SelectionConfig, select
from ..store import AttributionStore, open_store
from ..traces import describe_notes, encode_with_spans, join_completion, render_prompt, row_name
from .data import Readings, load_train_split, trace_reader
from .errors import UserError
from .output import count, reasons, say, some_of


_UTILIZATION = 0.4
_GIB = 2**30
# Of an H100 or an A100
_DEVICE_GB = 80
# Precisions that a plan is compared in
_COMPARED = ("bfloat16", "float32")


def plan_attribute(data_args, args, config: AttributionConfig, selection: SelectionConfig, model_args, state) -> None:
    """
    Print the plan of `trl-segment attribute`.

    Args:
        data_args ([`~trl_segment.cli.arguments.StreamingDatasetArguments`]):
            Names the dataset.
        args ([`~trl_segment.cli.attribute.AttributeArguments`]):
            Names the store.
        config ([`~trl_segment.AttributionConfig`]):
            How traces are attributed.
        selection ([`~trl_segment.SelectionConfig`]):
            Thresholds that the scores are for.
        model_args ([`~trl_segment.cli.arguments.ModelArguments`]):
            Names the model; its config and tokenizer are read.
        state ([`~accelerate.PartialState`]):
            This process, of which only the main one prints, and how many the run would have.
    """
    if not state.is_main_process:
        return
    dataset = load_train_split(data_args, data_args.dataset_streaming)
    read = trace_reader(config, data_args.dataset_text_field)
    readings = Readings()
    _say_attribution(
        readings.watch((name, read(row, name)) for name, row in _named(dataset)),
        None if data_args.dataset_streaming else len(dataset),
        *_load(
            model_args.model_name_or_path,
            model_args.model_revision,
            model_args.trust_remote_code,
            model_args.chat_template_path,
        ),
        config,
        SimpleNamespace(
            path=args.attributions, selection=selection, dtype=model_args.dtype, devices=state.num_processes
        ),
    )
    readings.say()
    readings.check()
    say("Nothing was loaded, attributed or written.")


def plan_sft(dataset, training_args, model_args, devices: int = 1) -> None:
    """
    Print the plan of `trl-segment sft`.

    Args:
        dataset ([`~datasets.Dataset`]):
            Training set.
        training_args ([`~trl_segment.SegmentSelectiveSFTConfig`]):
            Settings.
        model_args ([`~trl.ModelConfig`]):
            Names the model; its config and tokenizer are read.
        devices (`int`, *optional*, defaults to `1`):
            Processes that the run would have.
    """
    args = training_args
    if not hasattr(dataset, "__len__"):
        raise UserError("--dry_run counts the tokens of a dataset that can be counted: leave --dataset_streaming out.")
    selection, attribution = config_of(SelectionConfig, args), config_of(AttributionConfig, args)
    config, tokenizer = _load(
        model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code, args.chat_template_path
    )
    read = trace_reader(attribution, args.dataset_text_field)
    rows = progress_bar(dataset, "Counting tokens", total=len(dataset))
    readings = Readings()
    traces = list(readings.watch((name, read(row, name)) for name, row in _named(rows)))
    readings.say()
    if args.selection != "all":
        readings.check()
    lengths = [_training_tokens(trace, tokenizer) for _, trace in traces]
    longest = args.max_length or max(lengths)
    trained = [min(length, longest) for length in lengths]
    say(
        f"Training on {count(len(traces), 'trace')}, {sum(trained):,} tokens, with {model_args.model_name_or_path}"
        f"{' (LoRA)' if model_args.use_peft else ''}."
    )
    cut = sum(length > longest for length in lengths)
    if cut:
        most = "MOST TRACES LOSE THEIR END: " if 2 * cut > len(lengths) else ""
        say(f"{most}{count(cut, 'trace')} longer than max_length {longest:,} would be cut.")

    if args.selection == "all":
        say("Every segment would be trained.")
    elif args.attributions is not None:
        _say_selection(traces, args.attributions, selection)
    else:
        other = args.attribution_model
        if other is not None:
            say(f"When training begins, {other} attributes the traces:")
            parts = _load(other, None, args.trust_remote_code, None)
        else:
            say("When training begins, the model attributes the traces:")
            parts = config, tokenizer
        dtype = model_args.dtype if other is None and args.attribution_dtype == "auto" else args.attribution_dtype
        run = SimpleNamespace(path=None, selection=selection, dtype=dtype, devices=devices)
        _say_attribution(iter(traces), len(traces), *parts, attribution, run)
    _say_training(trained, longest, config, args, model_args, devices)


def _named(rows):
    return ((row_name(row, index), row) for index, row in enumerate(rows))


def _say_training(trained, longest, config, args, model_args, devices):
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    sequences = math.ceil(sum(trained) / longest) if args.packing else len(trained)
    epochs = args.num_train_epochs
    steps = math.ceil(math.ceil(sequences / per_step) * epochs)
    if args.max_steps > 0:
        steps, epochs = args.max_steps, args.max_steps * per_step / sequences
    parameters, in_layers = count_weights(config)
    passes = 2 if model_args.use_peft else 3  # backward for the activations, and unless frozen for the weights
    passes += bool(args.activation_checkpointing)
    flops = epochs * passes * float(forward_flops(config, trained, in_layers).sum())
    hours = {name: flops / (devices * TFLOPS_BY_PRECISION[name] * 1e12 * _UTILIZATION) / 3600 for name in _COMPARED}
    number = _bytes_per_number(config, model_args.dtype or "auto")
    state = "weights" if model_args.use_peft else "weights, gradients and two AdamW moments"
    memory = parameters * number * (1 if model_args.use_peft else 4)
    alone = "fit" if memory < _DEVICE_GB * 1e9 else "do not fit"
    say(
        f"Training: {count(steps, 'step')} of {count(per_step, 'sequence')} ({epochs:.1f} epochs), {flops:.2e} "
        f"operations, about {' or '.join(f'{value:,.2f} hours in {name}' for name, value in hours.items())} on "
        f"{devices} x H100 at {_UTILIZATION:.0%} of its peak (an assumption); {state} take {memory / _GIB:,.1f} GiB "
        f"before any sharding and {alone} in {_DEVICE_GB} GB, activations and logits come on top.",
        f"The result would be in {args.output_dir}. Nothing was loaded, trained or written.",
    )


def _say_attribution(traces, total, model_config, tokenizer, config: AttributionConfig, run):
    store = None
    if run.path is not None and os.path.exists(os.path.join(run.path, "settings.json")):
        store = AttributionStore(run.path)
    bar = progress_bar(traces, "Counting tokens", total=total)
    plan = plan_attribution(bar, model_config, tokenizer, config, store, selection=run.selection)
    say(
        f"{count(plan.traces, 'trace')}: {len(plan.tokens):,} to attribute ({count(plan.segments, 'segment')}), "
        f"{plan.reused:,} in the store, {plan.repeated:,} repeated, {sum(map(len, plan.skipped.values())):,} not "
        "attributable.",
        *reasons(plan.skipped),
    )
    if plan.notes:
        say(describe_notes(plan.notes, plan.traces))
    if plan.differences:
        say(
            f"The store at {run.path!r} was made with other settings, so the run would be refused:",
            *(f"  {difference}" for difference in plan.differences),
        )
    if not plan.tokens:
        return
    if plan.most_evaluations is None:
        say(f"The scorer {config.attribution_scorer!r} makes forward passes only; its cost is not estimated.")
        return
    estimates = {"At most": plan.most_evaluations}
    if plan.mean_evaluations:
        estimates["As the traces of the store so far"] = plan.mean_evaluations
    for label, evaluations in estimates.items():
        cost = estimate_cost(
            model_config,
            plan.tokens,
            evaluations,
            devices=run.devices,
            max_tokens_per_forward=config.attribution_max_tokens,
            bytes_per_number=_bytes_per_number(model_config, run.dtype),
            device_tflops=TFLOPS_BY_PRECISION[_precision(model_config, run.dtype)],
            utilization=_UTILIZATION,
        )
        say(f"{label}, {evaluations:.1f} gradient evaluations per trace: {cost}.")
    for name in _COMPARED:
        number = getattr(torch, name).itemsize
        cost = estimate_cost(
            model_config,
            plan.tokens,
            plan.most_evaluations,
            devices=run.devices,
            max_tokens_per_forward=config.attribution_max_tokens,
            bytes_per_number=number,
            device_tflops=TFLOPS_BY_PRECISION[name],
            utilization=_UTILIZATION,
        )
        fit = fits(model_config, max(plan.tokens), _DEVICE_GB * 1e9, number)
        taken = "" if name != _precision(model_config, run.dtype) else " (this run's precision)"
        say(f"  {name}{taken}: at most {cost.hours:,.2f} hours; fits in {_DEVICE_GB} GB: {fit}")
    say(
        f"Hours are for {run.devices} x H100 at {_UTILIZATION:.0%} of its peak, an assumption: scale them by the "
        "share that yours reaches."
    )


def _say_selection(traces, name, selection: SelectionConfig):
    store = open_store(name)
    kept = tokens_kept = segments = tokens = full = 0
    missing = []
    for label, trace in traces:
        stored = store.get(trace.key)
        if trace.problem is not None:
            full += 1
        elif stored is None:
            missing.append(label)
        elif stored.problem is not None:
            full += 1
        else:
            scores = stored.segment_scores
            chosen = select(scores, selection, trace.key).kept
            kept, segments = kept + int(chosen.sum()), segments + len(chosen)
            tokens_kept += int(scores.num_tokens[chosen].sum())
            tokens += int(np.sum(scores.num_tokens))
    say(
        f"Attributions of {name}: {kept:,} of {segments:,} segments ({kept / max(segments, 1):.1%}) and "
        f"{tokens_kept:,} of {tokens:,} reasoning tokens ({tokens_kept / max(tokens, 1):.1%}) would be trained; "
        f"{count(full, 'trace')} in full."
    )
    if missing:
        say(f"{count(len(missing), 'trace')} not in that store, so training would be refused: {some_of(missing)}")


def _training_tokens(trace, tokenizer) -> int:
    """Tokens of prompt, completion and end of turn; a chat template may add a few."""
    prompt = render_prompt(trace, tokenizer)
    return 1 + len(encode_with_spans(tokenizer, prompt + join_completion(prompt, trace.completion)[0])[0])


def _load(name, revision, trust_remote_code, chat_template_path):
    """Config and tokenizer of a model."""
    return (
        load_config(name, revision, trust_remote_code),
        load_tokenizer(name, revision, chat_template_path, trust_remote_code),
    )


def _bytes_per_number(config, dtype) -> int:
    return _dtype(config, split_precision(dtype)[0]).itemsize


def _precision(config, dtype) -> str:
    """What products are made in, as the peaks of devices name it."""
    dtype, tf32 = split_precision(dtype)
    return "tf32" if tf32 else str(_dtype(config, dtype)).removeprefix("torch.")


def _dtype(config, dtype) -> torch.dtype:
    dtype = getattr(torch, dtype, None) if dtype not in (None, "auto") else config.dtype
    return dtype or torch.float32
