"""`--dry-run`: what a command would do and what it would cost, without loading a weight."""

import math
import os

import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer

from ..attribution import AttributionStore, open_store
from ..attribution.cost import H100_TFLOPS, count_weights, estimate_cost, forward_flops
from ..attribution.plan import plan_attribution
from ..progress import progress_bar
from ..report.statistics import collect_statistics
from ..traces import build_trace, encode_with_spans, join_completion, render_prompt, row_name
from .data import load_splits, load_train_split


_UTILIZATION = 0.4
_GIB = 2**30


def plan_attribute(script_args, args, model_args, state: PartialState) -> None:
    """
    Print what `trl-segment attribute` would do.

    Args:
        script_args ([`~trl.ScriptArguments`]):
            Names the dataset.
        args ([`~trl_segment.cli.attribute.AttributeArguments`]):
            Settings.
        model_args ([`~trl.ModelConfig`]):
            Names the model; its config and tokenizer are read.
        state ([`~accelerate.PartialState`]):
            This process, of which only the main one prints, and how many the run would have.
    """
    if not state.is_main_process:
        return
    dataset = load_train_split(script_args)
    config, tokenizer = _load(
        model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code, args.chat_template_path
    )
    _print_attribution(
        (
            (row_name(row, index), build_trace(row, args, text_column=args.dataset_text_field))
            for index, row in enumerate(dataset)
        ),
        None if script_args.dataset_streaming else len(dataset),
        config,
        tokenizer,
        args,
        args.attributions,
        model_args.dtype,
        state.num_processes,
    )
    print("Nothing was loaded, attributed or written.")


def plan_sft(script_args, training_args, model_args, dataset_args, devices: int = 1) -> None:
    """
    Print what `trl-segment sft` would do.

    Args:
        script_args ([`~trl.ScriptArguments`]):
            Names the dataset.
        training_args ([`~trl_segment.SegmentSelectiveSFTConfig`]):
            Settings.
        model_args ([`~trl.ModelConfig`]):
            Names the model; its config and tokenizer are read.
        dataset_args ([`~trl.DatasetMixtureConfig`]):
            Datasets to mix.
        devices (`int`, *optional*, defaults to `1`):
            Processes that the run would have.
    """
    args = training_args
    dataset = load_splits(script_args, dataset_args)[script_args.dataset_train_split]
    if script_args.dataset_streaming:
        raise ValueError("`--dry_run` counts the tokens of a dataset that can be counted: leave out streaming.")
    config, tokenizer = _load(
        model_args.model_name_or_path, model_args.model_revision, args.trust_remote_code, args.chat_template_path
    )
    rows = progress_bar(dataset, "Counting tokens", total=len(dataset))
    traces = [
        (row_name(row, index), build_trace(row, args, text_column=args.dataset_text_field))
        for index, row in enumerate(rows)
    ]
    lengths = [_training_tokens(trace, tokenizer) for _, trace in traces]
    longest = args.max_length or max(lengths)
    read = [min(length, longest) for length in lengths]
    print(
        f"Training on {len(traces):,} traces, {sum(read):,} tokens, with {model_args.model_name_or_path}"
        f"{' (LoRA)' if model_args.use_peft else ''}."
    )
    cut = sum(length > longest for length in lengths)
    if cut:
        print(f"{cut:,} traces are longer than max_length {longest:,} and will be cut.")

    if args.selection == "all":
        print("Every segment would be trained.")
    elif args.attributions is not None:
        _print_selection(traces, open_store(args.attributions), args)
    elif args.attribution_model is not None:
        print(f"When training begins, {args.attribution_model} attributes the traces:")
        other, other_tokenizer = _load(args.attribution_model, None, args.trust_remote_code, None)
        _print_attribution(
            iter(traces), len(traces), other, other_tokenizer, args, None, args.attribution_dtype, devices
        )
    else:
        print("When training begins, the model attributes the traces:")
        _print_attribution(iter(traces), len(traces), config, tokenizer, args, None, model_args.dtype, devices)

    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    sequences = math.ceil(sum(read) / longest) if args.packing else len(read)
    epochs = args.num_train_epochs
    steps = math.ceil(math.ceil(sequences / per_step) * epochs)
    if args.max_steps > 0:
        steps, epochs = args.max_steps, args.max_steps * per_step / sequences
    parameters, in_layers = count_weights(config)
    passes = 2 if model_args.use_peft else 3  # backward for the activations, and unless frozen for the weights
    passes += bool(args.gradient_checkpointing)
    flops = epochs * passes * float(forward_flops(config, read, in_layers).sum())
    hours = flops / (devices * H100_TFLOPS * 1e12 * _UTILIZATION) / 3600
    number = _bytes_per_number(config, model_args.dtype or "auto")
    state = "weights" if model_args.use_peft else "weights, gradients and two AdamW moments"
    memory = parameters * number * (1 if model_args.use_peft else 4) / _GIB
    print(
        f"Training: {steps:,} steps of {per_step:,} sequences ({epochs:.1f} epochs), {flops:.2e} operations, about "
        f"{hours:,.2f} hours on {devices} x H100 at {_UTILIZATION:.0%} of its peak (an assumption); {state} take "
        f"{memory:,.1f} GiB before any sharding, activations and logits come on top.\n"
        f"The result would be in {args.output_dir}. Nothing was loaded, trained or written."
    )


def _print_attribution(traces, total, config, tokenizer, args, path, dtype, devices):
    store = None
    if path is not None and os.path.exists(os.path.join(path, "settings.json")):
        store = AttributionStore(path)
    bar = progress_bar(traces, "Counting tokens", total=total)
    plan = plan_attribution(bar, config, tokenizer, args, store)
    print(
        f"{plan.traces:,} traces: {len(plan.tokens):,} to attribute ({plan.segments:,} segments), {plan.reused:,} in "
        f"the store, {plan.repeated:,} repeated, {sum(map(len, plan.skipped.values())):,} not attributable."
    )
    for reason, names in plan.skipped.items():
        print(f"  {len(names):,} x {reason}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    if plan.differences:
        print(
            f"The store at {path!r} was made with other settings, so the run would be refused:\n  "
            + "\n  ".join(plan.differences)
        )
    if not plan.tokens:
        return
    if plan.most_evaluations is None:
        print(f"The scorer {args.attribution_scorer!r} takes forward passes only; its cost is not estimated.")
        return
    estimates = {"At most": plan.most_evaluations}
    if plan.mean_evaluations:
        estimates["As the traces of the store so far"] = plan.mean_evaluations
    for label, evaluations in estimates.items():
        cost = estimate_cost(
            config,
            plan.tokens,
            evaluations,
            devices=devices,
            max_tokens_per_forward=args.attribution_max_tokens,
            bytes_per_number=_bytes_per_number(config, dtype),
        )
        print(f"{label}, {evaluations:.1f} gradient evaluations per trace: {cost}.")
    print(
        f"Hours are for {devices} x H100 at {_UTILIZATION:.0%} of its peak, an assumption: scale them by what yours "
        "reaches."
    )


def _print_selection(traces, store, args):
    counted = collect_statistics(((name, None, store.get(trace.key), None) for name, trace in traces), args)
    kept, tokens = counted.segments, counted.tokens
    shares = [counts[0] / max(counts.sum(), 1) for counts in (kept, tokens)]
    print(
        f"Attributions of {args.attributions}: {kept[0]:,} of {kept.sum():,} segments ({shares[0]:.1%}) and "
        f"{tokens[0]:,} of {tokens.sum():,} reasoning tokens ({shares[1]:.1%}) would be trained; "
        f"{sum(map(len, counted.skipped.values())):,} traces in full."
    )
    if counted.missing:
        print(
            f"{len(counted.missing):,} traces are not in that store, so training would be refused: "
            f"{', '.join(counted.missing[:5])}{', ...' if len(counted.missing) > 5 else ''}"
        )


def _training_tokens(trace, tokenizer) -> int:
    """Tokens of prompt, completion and end of turn; a chat template may add a few."""
    prompt = render_prompt(trace, tokenizer)
    return 1 + len(encode_with_spans(tokenizer, prompt + join_completion(prompt, trace.completion)[0])[0])


def _load(name, revision, trust_remote_code, chat_template_path):
    options = {"trust_remote_code": trust_remote_code, **({"revision": revision} if revision else {})}
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if chat_template_path is not None:
        with open(chat_template_path, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    return AutoConfig.from_pretrained(name, **options), tokenizer


def _bytes_per_number(config, dtype) -> int:
    dtype = getattr(torch, dtype, None) if dtype not in (None, "auto") else config.dtype
    return (dtype or torch.float32).itemsize
