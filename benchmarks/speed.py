r"""
What a gradient evaluation costs, in time and memory, against the published procedure and Captum:

    OMP_NUM_THREADS=1 python benchmarks/speed.py [--shapes NAME ...] [--json FILE]

Weights are random, because only shapes count. `published` is the published procedure, written out below: embeddings as
inputs, the logits of all positions, one node per forward pass. `captum` is Captum's `IntegratedGradients` of the same
forward function, one node per forward pass. The others are this package: as it is, with several nodes a pass, with
half and with all layers recomputed, with compiled layers, and the sweep `marginal` over 20 segments, whose row is the
time of the whole sweep.

`time` is seconds per evaluation as a share of the published procedure's (0.5 is twice as fast), medians over repeats
that take turns in one process; on a CPU the process's own seconds, not the clock's. A rule that takes fewer
evaluations than the published 50 saves as many more. `memory` is the peak that a run adds to the loaded model
(resident set on a CPU, allocated memory on CUDA), in MiB.

On CUDA the shapes of Qwen2 with 1.5 and 7 billion weights in bfloat16 are there as well, and rows get a model FLOP
utilization, `flops / (seconds * peak)`, by `trl_segment.attribution.cost`. Logits, which the published procedure
computes everywhere and this package at the answer alone, do not count as useful.
"""

import argparse
import ctypes
import gc
import itertools
import json
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from transformers import Qwen2Config, Qwen2ForCausalLM

from trl_segment.attribution import BackwardSweep, IntegratedGradients
from trl_segment.attribution.cost import activation_bytes, count_weights, embedding_bytes, forward_flops
from trl_segment.models.compiled import compiled_layers


# Dense bfloat16 FLOP/s as the maker states them
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
COLUMNS = ("shape", "tokens", "engine", "time", "memory", "seconds", "mfu")


def narrow(vocabulary, hidden, layers):
    return {
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
    }  # fmt: skip


def qwen2(hidden, mlp, heads, key_heads):
    return {
        "vocab_size": 152_064, "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": 28,
        "num_attention_heads": heads, "num_key_value_heads": key_heads,
    }  # fmt: skip


# Name: config, lengths, precision
ON_CPU = {
    "width 128, 4 layers, vocabulary 32k": (narrow(32_000, 128, 4), (512, 2048), torch.float32),
    "width 64, 2 layers, vocabulary 152k": (narrow(152_000, 64, 2), (2048,), torch.float32),
}
ON_CUDA = {
    "Qwen2 1.5B": (qwen2(1536, 8960, 12, 2), (2048, 8192, 16_384), torch.bfloat16),
    "Qwen2 7B": (qwen2(3584, 18_944, 28, 4), (8192, 32_768), torch.bfloat16),
}


def plain_forward(model, ids, target):
    """The function that the published procedure and Captum differentiate: embeddings to F, one number per row."""
    start, end = target

    def forward(embeddings):
        log_probs = model(inputs_embeds=embeddings, use_cache=False).logits.log_softmax(dim=-1)
        answer = ids[start:end].expand(len(embeddings), -1).unsqueeze(-1)
        return log_probs[:, start - 1 : end - 1].gather(-1, answer).sum(dim=(1, 2))

    return forward


def embed(model, ids):
    """Embeddings of the tokens and of the baseline, the pad token, each of shape (1, tokens, hidden)."""
    with torch.no_grad():
        embedding = model.get_input_embeddings()
        return embedding(ids[None]), embedding(torch.full_like(ids, model.config.pad_token_id)[None])


def published(model, ids, target, nodes):
    """Some nodes of the published procedure: the gradients' average times (input - baseline), shape (tokens,)."""
    forward = plain_forward(model, ids, target)
    real, base = embed(model, ids)
    total = torch.zeros_like(real)
    for alpha in torch.linspace(0, 1, max(nodes, 2))[:nodes].tolist():
        embeddings = (base + alpha * (real - base)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(forward(embeddings).sum(), embeddings)
        total += gradient
    return ((real - base) * total / nodes)[0].sum(dim=-1).double().cpu().numpy()


def captum(model, ids, target, nodes):
    """Captum's Gauss-Legendre rule, one node per forward pass; attribution of each token, shape (tokens,)."""
    real, base = embed(model, ids)
    attributions = CaptumIntegratedGradients(plain_forward(model, ids, target)).attribute(
        real, baselines=base, n_steps=nodes, method="gausslegendre", internal_batch_size=1
    )
    return attributions[0].detach().sum(dim=-1).double().cpu().numpy()


def make_model(config, dtype, device):
    """Random weights, frozen, so that no engine keeps what only weights' gradients need."""
    config = Qwen2Config(**config, max_position_embeddings=32_768, pad_token_id=0)
    with torch.device(device):
        model = Qwen2ForCausalLM._from_config(config, dtype=dtype)
    with torch.no_grad():
        # A new model's pad embedding is zero
        model.get_input_embeddings().weight[0].normal_(std=config.initializer_range)
    return model.eval().requires_grad_(False)


def timed(function, device):
    """Seconds that a call takes, and the MiB that it adds at its peak."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / 2**20
    if sys.platform == "linux":  # what earlier runs left in the allocator would hide what this one takes
        ctypes.CDLL(None).malloc_trim(0)
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def sample():
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    # What the process got: on a shared machine the clock is mostly other processes'. The sampler's part is small.
    start = time.process_time()
    try:
        function()
        seconds = time.process_time() - start
    finally:
        done.set()
        sampler.join()
    return seconds, (peak - before) / 2**20


def engines(model, tokens, device, nodes, compiled):
    """Name, function and evaluations of what is timed on one length."""
    ids = torch.as_tensor(np.random.default_rng(0).integers(1, model.config.vocab_size, tokens), device=device)
    target = (tokens - 3, tokens)
    cuts = np.linspace(tokens // 8, tokens - 16, 21).astype(int).tolist()
    segments = list(itertools.pairwise(cuts))
    number = model.dtype.itemsize
    node = float(activation_bytes(model.config, tokens, number) + embedding_bytes(model.config, tokens, number))
    least = float(activation_bytes(model.config, tokens, number, checkpointing=True))

    def ours(**options):
        engine = IntegratedGradients(model, rule="midpoint", evaluations=nodes, **options)
        return lambda: engine.attribute(ids, target, segments)

    def with_compiled_layers():
        with compiled_layers(model):
            ours(memory=2 * node)()

    yield "published", lambda: published(model, ids, target, nodes), nodes
    yield "captum", lambda: captum(model, ids, target, nodes), nodes
    yield "ours", ours(memory=2 * node), nodes
    if tokens < 8192:
        yield f"ours, {nodes} nodes a pass", ours(max_tokens_per_forward=nodes * tokens), nodes
    # A plan keeps a fifth of the memory back
    yield "ours, half of the layers recomputed", ours(memory=1.25 * (node + least) / 2), nodes
    yield "ours, every layer recomputed", ours(memory=1), nodes
    if compiled:
        yield "ours, compiled layers", with_compiled_layers, nodes
    yield "marginal, 20 segments", lambda: BackwardSweep(model).attribute(ids, target, segments), 1


def measure(shape, model, tokens, device, args):
    """Rows of all engines on one model and length."""
    compared = list(engines(model, tokens, device, args.nodes, args.compile))
    seconds, peaks = ({name: [] for name, *_ in compared} for _ in range(2))
    for repeat in range(args.repeats + 1):
        for name, run, _ in compared:
            # The first round warms up, and compiles
            try:
                measured = timed(run, device)
            except (torch.OutOfMemoryError, MemoryError):
                measured = (float("nan"), float("nan"))
            if repeat > 0:
                seconds[name].append(measured[0])
                peaks[name].append(measured[1])
    each = {name: statistics.median(seconds[name]) / evaluations for name, _, evaluations in compared}
    peak = next((flops for card, flops in PEAK_FLOPS.items() if device == "cuda" and card in _card(device)), None)
    layers = model.config.num_hidden_layers
    forward = float(forward_flops(model.config, np.array([tokens]), count_weights(model.config)[1])[0])
    flops = 2 * forward + 2 * layers * model.config.hidden_size * tokens**2
    for name, *_ in compared:
        useful = None if peak is None or name.startswith("marginal") else flops / (each[name] * peak)
        measured = each[name] / each["published"], statistics.median(peaks[name]), each[name], useful
        yield dict(zip(COLUMNS, (shape, tokens, name, *measured), strict=True))


def _card(device):
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main():
    """Run the command."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = {**ON_CPU, **(ON_CUDA if device == "cuda" else {})}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(shapes), choices=list(shapes), help="Only these.")
    parser.add_argument("--nodes", type=int, default=4, help="Evaluations of a run.")
    parser.add_argument("--repeats", type=int, default=2, help="Timed runs of each.")
    parser.add_argument("--compile", action="store_true", help="Compiled layers too: needs a C++ compiler on CPU.")
    parser.add_argument("--json", type=Path, help="File for the rows.")
    args = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(0)
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS), flush=True)
    rows = []
    for shape in args.shapes:
        config, lengths, dtype = shapes[shape]
        model = None  # the one before goes before the next comes
        model = make_model(config, dtype, device)
        for tokens in lengths:
            for row in measure(shape, model, tokens, device, args):
                rows.append(row)
                mfu = "–" if row["mfu"] is None else f"{row['mfu']:.2f}"
                cells = shape, f"{tokens:,}", row["engine"], f"{row['time']:.2f}", f"{row['memory']:,.0f}"
                print(f"| {' | '.join(cells)} | {row['seconds']:.3f} | {mfu} |", flush=True)
    print(f"\n{_card(device)}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s in all.")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
