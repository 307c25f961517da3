r"""
Attribution: how near to the truth, how dear, how large. One table, from one process:

    python benchmarks/attribution.py [--quick] [--json FILE]

**Engines.** `trl_segment` is this package. `published` is the published procedure, written out below: embeddings as
inputs, the logits of all positions, `linspace(0, 1, 50)` with both ends in full, one node per forward pass, the
average of the gradients. `captum` is Captum's `IntegratedGradients` of the same plain forward function, one node per
forward pass.

**Fidelity** is measured on the trained model of `examples/tiny_world` (a random one says nothing about a rule: its
integrand is smooth), against an adaptive reference at a tolerance of 0.0005. `evaluations` are gradient
evaluations per trace, `l1_error` is the relative L1 error of the token attributions, `jaccard` and `exact` compare the
kept segments with those of the reference; `free_*` do so without the segments that are always kept. All are means over
traces. Each node of a trace is evaluated once and shared between the rules that ask for it.

**Cost** is measured on random weights, because only shapes count: small models with wide vocabularies. `wall_ratio` is
the seconds of a whole trace as a share of those of the published procedure (so 0.2 is five times faster), from medians
over interleaved repeats. `timed` is the number of evaluations that were really run; where it is less than
`evaluations`, the time is seconds per evaluation times `evaluations`. `peak_mib` is the peak of the memory that a run
adds to the loaded model (resident set on a CPU, allocated memory on CUDA).

**Accelerator.** On CUDA the cost rows also get a model FLOP utilisation, `flops / (seconds per evaluation * peak)`. An
evaluation differentiates with respect to its input alone, so in the backward pass a weight costs one product, as in
the forward pass, and not two as in training; attention has no weights, and costs twice its forward pass:

    flops = 2 * (2 * weights of the layers * tokens) + 3 * (2 * layers * heads * head width * tokens**2)

The last factor is causal attention, half of all pairs and two products. Logits, which the published procedure computes
everywhere and this package at the answer alone, do not count as useful. `--accelerator_shapes` adds the shapes of
Qwen2 with 1.5 and 7 billion weights in bfloat16 at 8k and 16k tokens.
"""

import argparse
import ctypes
import gc
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
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from trl_segment import SelectionConfig
from trl_segment.attribution import IntegratedGradients
from trl_segment.selection import select, sum_over_segments
from trl_segment.traces import attributed_sequence, build_trace


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
COLUMNS = (
    *("engine", "rule", "path", "tokens", "vocabulary", "evaluations", "l1_error", "jaccard", "exact"),
    *("free_jaccard", "free_exact", "wall_ratio", "peak_mib", "timed", "mfu"),
)
PAPER = SelectionConfig(consistency_scale="absolute")
FREE = SelectionConfig(consistency_scale="absolute", keep_first=0, keep_last=0)
# Of this package: label, path, settings
RULES = (
    ("simpson", "all", {"rule": "simpson"}),
    ("simpson tolerance=0.02", "all", {"rule": "simpson", "tolerance": 0.02}),
    ("simpson tolerance=0.005", "all", {"rule": "simpson", "tolerance": 0.005}),
    ("simpson stop=decision", "all", {"rule": "simpson", "stop": "decision"}),
    ("density", "all", {"rule": "density", "evaluations": 20}),
    ("density", "all", {"rule": "density", "evaluations": 32}),
    ("midpoint", "all", {"rule": "midpoint", "evaluations": 16}),
    ("midpoint", "all", {"rule": "midpoint", "evaluations": 32}),
    ("trapezoid", "all", {"rule": "trapezoid", "evaluations": 50}),
    ("gauss_legendre", "all", {"rule": "gauss_legendre", "evaluations": 20}),
    ("gauss_legendre", "all", {"rule": "gauss_legendre", "evaluations": 32}),
    ("paper", "all", {"rule": "paper", "evaluations": 50}),
    ("simpson", "reasoning", {"rule": "simpson"}),
    ("midpoint", "reasoning", {"rule": "midpoint", "evaluations": 16}),
)
REFERENCE = {"rule": "simpson", "tolerance": 5e-4, "evaluations": 512}
CAPTUM_NODES = 20
PUBLISHED_NODES = 50
REPEATS = 3
# Vocabularies above this one go with a smaller model, and are run at the last of the lengths alone
WIDE = 100_000
# Dense bfloat16 FLOP/s as the maker states them
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


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


def published(model, ids, target, nodes=PUBLISHED_NODES, all_nodes=PUBLISHED_NODES):
    """
    The published procedure, of which the first `nodes` of `all_nodes` nodes are run.

    Returns:
        `np.ndarray`: Attribution of each token, shape (tokens,).
    """
    forward = plain_forward(model, ids, target)
    real, base = embed(model, ids)
    total = torch.zeros_like(real)
    for alpha in torch.linspace(0, 1, all_nodes)[:nodes].tolist():
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


class SharingNodes(IntegratedGradients):
    """The engine, with a memory of the nodes of one trace and path, so that no rule evaluates one a second time."""

    memory: dict

    def _evaluate(self, run, nodes, real, base):
        new = [node for node in nodes if node not in self.memory]
        self.memory.update(zip(new, super()._evaluate(run, new, real, base), strict=True))
        return [self.memory[node] for node in nodes]


def compare(tokens, truth, segments):
    """`l1_error`, then Jaccard and exact match of the kept segments, with those that are always kept and without."""
    numbers = [np.abs(tokens - truth).sum() / np.abs(truth).sum()]
    for config in (PAPER, FREE):
        ours, theirs = (select(sum_over_segments(x, segments), config).kept for x in (tokens, truth))
        union = (ours | theirs).sum()
        numbers += [(ours & theirs).sum() / union if union else 1.0, float(np.array_equal(ours, theirs))]
    return numbers


def load_world(count, device):
    """The trained model, `count` sequences of both kinds in turn, and up to 8 others to learn a density on."""
    model = AutoModelForCausalLM.from_pretrained(WORLD / "checkpoint", dtype=torch.float32).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(WORLD / "checkpoint")
    kinds = {}
    for line in (WORLD / "traces.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        sequence = attributed_sequence(build_trace(row), tokenizer)
        kinds.setdefault(row["id"].rsplit("-", 1)[0], []).append(sequence)
    mixed = [sequence for group in zip(*kinds.values(), strict=False) for sequence in group]
    return model, mixed[:count], mixed[count : count + min(count, 8)]


def measure_fidelity(count, device):
    """
    Rows of all engines on the trained model.

    Returns:
        `tuple[list[dict], str]`: Rows, and what is to be said about the reference.
    """
    model, sequences, others = load_world(count, device)
    density = IntegratedGradients(model, path="all").learn_density(
        [(s.input_ids, s.target, s.segments) for s in others]
    )
    common = {"density": density, "max_tokens_per_forward": 2048}
    engines = [SharingNodes(model, path=path, **common, **settings) for _, path, settings in RULES]
    references = {path: SharingNodes(model, path=path, **common, **REFERENCE) for path in ("all", "reasoning")}
    labels = [("trl_segment", label, path) for label, path, _ in RULES]
    labels += [("published", "paper", "all"), ("captum", "gauss_legendre", "all")]
    results = [[] for _ in labels]
    convergence = {path: [] for path in references}
    for number, sequence in enumerate(sequences):
        show(f"fidelity: trace {number + 1} of {len(sequences)}, {len(sequence.input_ids)} tokens")
        case = sequence.input_ids, sequence.target, sequence.segments
        memories, truths = {}, {}
        for path, engine in references.items():
            engine.memory = memories[path] = {}
            reference = engine.attribute(*case)
            truths[path] = reference.tokens
            coarse = SharingNodes(model, path=path, **{**REFERENCE, "evaluations": reference.evaluations // 2})
            coarse.memory = memories[path]
            error = compare(coarse.attribute(*case).tokens, truths[path], sequence.segments)[0]
            convergence[path].append((reference.evaluations, error))
        for engine, result in zip(engines, results, strict=False):
            engine.memory = memories[engine.path]
            found = engine.attribute(*case)
            result.append([found.evaluations, *compare(found.tokens, truths[engine.path], sequence.segments)])
        ids = torch.as_tensor(sequence.input_ids, device=device)
        tokens = published(model, ids, sequence.target)
        results[-2].append([PUBLISHED_NODES, *compare(tokens, truths["all"], sequence.segments)])
        tokens = captum(model, ids, sequence.target, CAPTUM_NODES)
        results[-1].append([CAPTUM_NODES, *compare(tokens, truths["all"], sequence.segments)])

    rows = []
    length = round(np.mean([len(sequence.input_ids) for sequence in sequences]))
    names = ("evaluations", "l1_error", "jaccard", "exact", "free_jaccard", "free_exact")
    for (engine, rule, path), result in zip(labels, results, strict=True):
        means = dict(zip(names, np.mean(result, axis=0).tolist(), strict=True))
        rows.append(make_row(engine, rule, path, length, model.config.vocab_size, **means))
    remarks = [f"Fidelity: {len(sequences)} traces of {length} tokens on average."]
    for path, pairs in convergence.items():
        evaluations, errors = np.array(pairs).T
        remarks.append(
            f"Reference, path {path}: adaptive Simpson, {evaluations.mean():.0f} evaluations on average (most "
            f"{evaluations.max():.0f}); with half of them it differs by {errors.mean():.4f} (most {errors.max():.4f}) "
            "in L1."
        )
    return rows, "\n".join(remarks)


def make_row(engine, rule, path, tokens, vocabulary, **measured):
    """A row of the table; what was not measured is `None`."""
    fixed = {"engine": engine, "rule": rule, "path": path, "tokens": tokens, "vocabulary": vocabulary}
    return {**dict.fromkeys(COLUMNS), **fixed, **measured}


def no_worse_than_published(rows):
    """The cheapest rule of this package on all tokens that is as near to the truth as the published procedure."""
    (theirs,) = (row for row in rows if row["engine"] == "published")
    good = [
        row
        for row in rows
        if (row["engine"], row["path"]) == ("trl_segment", "all")
        and row["l1_error"] <= theirs["l1_error"]
        and row["exact"] >= theirs["exact"]
    ]
    # The package's own 50-node sum is as near but for rounding
    return min(good, key=lambda row: row["evaluations"]) if good else theirs


def random_model(vocabulary, device):
    """A small Qwen2 with a wide vocabulary."""
    wide = vocabulary > WIDE
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=64 if wide else 128,
        intermediate_size=256 if wide else 512,
        num_hidden_layers=2 if wide else 4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return prepare(Qwen2ForCausalLM(config).to(device))


def qwen2_model(billions, device):
    """Random weights in the shape of Qwen2-1.5B or Qwen2-7B, bfloat16."""
    shape = {
        1.5: {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
        7: {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
    }[billions]
    heads = {1.5: 2, 7: 4}[billions]
    config = Qwen2Config(
        vocab_size=152_064, num_key_value_heads=heads, max_position_embeddings=32768, pad_token_id=0, **shape
    )
    with torch.device(device):
        return prepare(Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16))


def prepare(model):
    """Frozen, so that no engine keeps what only weights' gradients need, and with a pad embedding that is not zero."""
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.pad_token_id].normal_(std=model.config.initializer_range)
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
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    try:
        function()
        seconds = time.perf_counter() - start
    finally:
        done.set()
        sampler.join()
    return seconds, (peak - before) / 2**20


def measure_cost(model, tokens, fidelity, device, batched=True):
    """
    Rows of all engines on one model and length.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Random weights.
        tokens (`int`):
            Length of the sequence; the last 3 are the answer.
        fidelity (`list[dict]`):
            Rows of the trained model, for how many evaluations a rule takes.
        device (`str`):
            `"cpu"` or `"cuda"`.
        batched (`bool`, *optional*, defaults to `True`):
            Whether to run several nodes per forward pass as well.
    """
    vocabulary = model.config.vocab_size
    show(f"cost: {tokens} tokens, vocabulary {vocabulary:,}")
    ids = torch.as_tensor(np.random.default_rng(0).integers(1, vocabulary, tokens), device=device)
    target, segments = (tokens - 3, tokens), [(tokens // 8, tokens // 2), (tokens // 2, tokens - 16)]
    chosen = no_worse_than_published(fidelity)
    ours = [row for row in fidelity if row["engine"] == "trl_segment"]
    simpson = [row for row in ours if row["rule"].startswith("simpson") and row["path"] == "all"]
    whole = round(chosen["evaluations"])
    few = 1 if device == "cpu" else 4

    def engine(budget, path="all", evaluations=whole):
        # A tolerance that is never met: random weights would stop at once. So all the evaluations are really run, two
        # at a time after the first nine, as the trained model has it.
        rule = {"rule": "simpson", "tolerance": 0.0} if path == "all" else {"rule": "midpoint"}
        runner = IntegratedGradients(
            model, evaluations=max(evaluations, 9), path=path, max_tokens_per_forward=budget, **rule
        )
        return lambda: runner.attribute(ids, target, segments).evaluations

    runs = {
        "published": lambda: published(model, ids, target, few) is not None and few,
        "ours": engine(tokens),
        "captum": lambda: captum(model, ids, target, few) is not None and few,
        "reasoning": engine(tokens, "reasoning", 9),
    }
    if batched:
        runs["batched"] = engine(16384, evaluations=9)
    seconds, peaks, counts = {name: [] for name in runs}, {name: [] for name in runs}, {}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            if repeat == 0 and name not in ("published", "reasoning"):
                continue  # these are enough to warm up
            try:
                measured = timed(lambda run=run, name=name: counts.__setitem__(name, run()), device)
            except (torch.OutOfMemoryError, MemoryError):
                measured = (float("nan"), float("nan"))
            if repeat > 0:
                seconds[name].append(measured[0])
                peaks[name].append(measured[1])

    per_evaluation = {name: statistics.median(seconds[name]) / counts.get(name, 1) for name in runs}
    trace = PUBLISHED_NODES * per_evaluation["published"]

    def row(name, label, rule, path, evaluations):
        ratio = evaluations * per_evaluation[name] / trace
        return make_row(
            label,
            rule,
            path,
            tokens,
            vocabulary,
            evaluations=evaluations,
            wall_ratio=ratio if np.isfinite(ratio) else None,
            peak_mib=max(peaks[name]) if np.isfinite(max(peaks[name])) else None,
            timed=counts.get(name),
            mfu=utilisation(model, tokens, per_evaluation[name]) if device == "cuda" else None,
        )

    rows = [
        row("published", "published", "paper", "all", PUBLISHED_NODES),
        row("captum", "captum", "gauss_legendre", "all", PUBLISHED_NODES),
        row("ours", "trl_segment", "paper", "all", PUBLISHED_NODES),
        row("captum", "captum", "gauss_legendre", "all", chosen["evaluations"]),
        row("ours", "trl_segment", f"{chosen['rule']} (no worse than published)", "all", chosen["evaluations"]),
    ]
    for found in simpson:
        if found is not chosen:
            rows.append(row("ours", "trl_segment", found["rule"], "all", found["evaluations"]))
    rows.append(row("reasoning", "trl_segment", "midpoint", "reasoning", 16))
    if batched:
        rule = f"{chosen['rule']} (16,384 tokens a pass)"
        rows.append(row("batched", "trl_segment", rule, "all", chosen["evaluations"]))
    return rows


def utilisation(model, tokens, seconds):
    """Model FLOP utilisation of one evaluation, or `None` where it did not fit or the device's peak is not known."""
    peaks = [peak for name, peak in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()]
    if not peaks or not np.isfinite(seconds):
        return None
    config = model.config
    weights = sum(p.numel() for p in model.model.layers.parameters())
    attention = 2 * config.num_hidden_layers * config.hidden_size * tokens**2
    return (2 * 2 * weights * tokens + 3 * attention) / (seconds * peaks[0])


def show(message):
    """Progress, apart from the table."""
    print(message, file=sys.stderr, flush=True)


def format_table(rows):
    """The rows as text, without columns that are empty throughout."""
    columns = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    digits = {"evaluations": ".1f", "peak_mib": ".0f", "exact": ".2f", "free_exact": ".2f", "mfu": ".2f"}
    lines = [columns]
    for row in rows:
        cells = []
        for name in columns:
            value = row[name]
            if value is None:
                cells.append("–")
            elif isinstance(value, float):
                cells.append(format(value, digits.get(name, ".3f")))
            else:
                cells.append(str(value))
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def numbers(text):
    """`"512,2048"` as a list of integers."""
    return [int(number) for number in text.split(",")]


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description="Fidelity and cost of attribution against the published procedure.")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file as well")
    parser.add_argument("--quick", action="store_true", help="2 traces and one small shape: does it run?")
    parser.add_argument("--traces", type=int, help="traces for fidelity (default: 22)")
    parser.add_argument("--lengths", type=numbers, help="tokens for cost (default: 512,2048)")
    parser.add_argument("--vocabularies", type=numbers, help="vocabularies for cost (default: 32000,152000)")
    parser.add_argument(
        "--accelerator_shapes", action="store_true", help="also Qwen2 of 1.5B and 7B at 8k and 16k tokens, on CUDA"
    )
    args = parser.parse_args()
    traces = args.traces or (2 if args.quick else 22)
    lengths = args.lengths or ([512] if args.quick else [512, 2048])
    vocabularies = args.vocabularies or ([32_000] if args.quick else [32_000, 152_000])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.accelerator_shapes and device == "cpu":
        parser.error("--accelerator_shapes needs a CUDA device")

    start = time.perf_counter()
    torch.manual_seed(0)
    fidelity, remarks = measure_fidelity(traces, device)
    rows = list(fidelity)
    for vocabulary in vocabularies:
        model = random_model(vocabulary, device)
        for tokens in lengths if vocabulary <= WIDE else lengths[-1:]:
            rows += measure_cost(model, tokens, fidelity, device)
    if args.accelerator_shapes:
        for billions in (1.5, 7):
            model = None  # the one before goes before the next comes
            model = qwen2_model(billions, device)
            for tokens in (8192, 16384):
                rows += measure_cost(model, tokens, fidelity, device, batched=False)

    print(format_table(rows))
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"\n{remarks}\n{where}, torch {torch.__version__}, {time.perf_counter() - start:.0f} s in all.")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
