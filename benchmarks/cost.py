"""
The cost formula of `trl_segment.attribution.cost` against what PyTorch counts and a clock measures, and the table of
docs/cost.md that it gives.

    OMP_NUM_THREADS=1 python benchmarks/cost.py    # a few minutes on one CPU core, 6 GiB of memory

**Shapes.** One layer of each model of the table at its real widths, with random weights in bfloat16: operations that
PyTorch counts in a gradient evaluation, and bytes that autograd keeps for its backward pass, as a share of the
formula's. PyTorch counts every pair of positions of attention, so the formula is taken without its causal half here.

**Clock.** Gradient evaluations of small models in float32 on one core, in CPU time. `utilization` is the formula's
operations per second as a share of what a large matrix product reaches on the same core then; `predicted` is the
time that the formula gives with the utilization of the row before, as a share of the measured one.
"""

import argparse
import statistics
import time

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from trl_segment.attribution import IntegratedGradients, estimate_cost
from trl_segment.attribution.cost import activation_bytes, count_weights, forward_flops


# LIMO: 817 traces, about 7,000 tokens each
TRACES, TOKENS = 817, 7_000
# Gradient evaluations a trace: the default rule's mean on the long traces of docs/real_models.md, its cap, the paper's
EVALUATIONS = (18, 32, 50)


def qwen2(hidden, mlp, layers, heads, key_heads, **others):
    return Qwen2Config(
        **{"vocab_size": 152_064, "max_position_embeddings": 131_072, "tie_word_embeddings": False, **others},
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads,
    )  # fmt: skip


def models():
    """Names and configs: the R1 distills of Qwen2.5 and Llama 3."""
    return {
        "1.5B (Qwen2)": qwen2(1536, 8960, 28, 12, 2, vocab_size=151_936),
        "7B (Qwen2)": qwen2(3584, 18_944, 28, 28, 4),
        "32B (Qwen2)": qwen2(5120, 27_648, 64, 40, 8),
        "70B (Llama 3)": LlamaConfig(
            vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80,
            num_attention_heads=64, num_key_value_heads=8, max_position_embeddings=131_072,
        ),
    }  # fmt: skip


def evaluate(model, tokens, counter):
    """A gradient evaluation; bytes that it keeps for the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    leaf = torch.randn(1, tokens, model.config.hidden_size, requires_grad=True)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        value = model(inputs_embeds=(leaf * 1).to(model.dtype), use_cache=False, logits_to_keep=1).logits.sum()
        torch.autograd.grad(value, leaf)
    return sum(size for size, _ in kept.values())


def check_shapes(tokens=16):
    print("| model | operations, counted / formula | kept bytes, counted / formula |\n| --- | --- | --- |")
    for name, config in models().items():
        config.num_hidden_layers, config.vocab_size = 1, 64
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:1]
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH):  # the one that PyTorch counts on CPU
            evaluate(model, tokens, counter)
        kept = evaluate(model, tokens, FlopCounterMode(display=False))
        pairs = 2 * config.hidden_size * tokens**2
        forward = float(forward_flops(config, tokens, count_weights(config)[1]))
        operations = counter.get_total_flops() / (2 * forward + 4 * pairs)
        print(f"| {name} | {operations:.3f} | {kept / float(activation_bytes(config, tokens)):.3f} |", flush=True)


def peak_of_core():
    """Operations a second of a large float32 matrix product."""
    a = torch.randn(1536, 1536)
    times = []
    for _ in range(5):
        start = time.process_time()
        a @ a
        times.append(time.process_time() - start)
    return 2 * 1536**3 / statistics.median(times)


def check_clock():
    shapes = ((128, 4, 512), (128, 4, 2048), (256, 4, 1024), (512, 4, 512), (512, 4, 1024), (512, 8, 1024))
    print("| width | layers | tokens | seconds per evaluation | utilization | predicted |\n|" + " --- |" * 6)
    assumed = None
    for width, layers, tokens in shapes:
        config = qwen2(width, 4 * width, layers, width // 64, width // 64, vocab_size=1000, pad_token_id=0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.02)
        ids = torch.randint(5, 1000, (tokens,), generator=torch.Generator().manual_seed(0))
        nodes, times = 2, []
        for repeat in range(4):
            start = time.process_time()
            IntegratedGradients(model, "midpoint", nodes, path="all").attribute(ids, (tokens - 3, tokens))
            if repeat:
                times.append(time.process_time() - start)
        seconds, peak = statistics.median(times), peak_of_core()
        cost = estimate_cost(config, [tokens], nodes, bytes_per_number=4, device_tflops=peak / 1e12, utilization=1)
        utilization = cost.hours * 3600 / seconds
        predicted = "–" if assumed is None else f"{utilization / assumed:.2f}"
        print(
            f"| {width} | {layers} | {tokens:,} | {seconds / nodes:.3f} | {utilization:.2f} | {predicted} |",
            flush=True,
        )
        assumed = utilization


def table(traces, length):
    columns = "model | weights | evaluations | operations | 1 H100: hours | 8 H100: hours | GiB: weights"
    columns += " | GiB: as configured | GiB: least | GiB: least, sharded over 8"
    print(f"| {columns} |\n|{' --- |' * (columns.count('|') + 1)}")
    for name, config in models().items():
        for evaluations in EVALUATIONS:
            one = estimate_cost(config, [length] * traces, evaluations)
            eight = estimate_cost(config, [length] * traces, evaluations, devices=8)
            sharded = estimate_cost(config, [length] * traces, evaluations, devices=8, sharded=True)
            print(
                f"| {name} | {one.parameters / 1e9:.2f}e9 | {evaluations} | {one.flops:.2e} | {one.hours:.1f} | "
                f"{eight.hours:.2f} | {one.weights_gib:.1f} | {one.gib:.1f} | {one.least_gib:.1f} | "
                f"{sharded.least_gib:.1f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--table", action="store_true", help="print the table alone, without measuring anything")
    parser.add_argument("--traces", type=int, default=TRACES, help="traces of the table, by default LIMO's")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        check_shapes()
        print()
        check_clock()
        print()
    table(args.traces, args.tokens)


if __name__ == "__main__":
    main()
