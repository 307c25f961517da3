"""
Decoding with `generate_outputs` and with transformers: the same outputs, how fast.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --compare --count 64    # every way that transformers has, as ratios to ours
    python benchmarks/decoding.py --compare --model MODEL --problems MATH.jsonl --count 500 --max_new_tokens 1024 \
        --attention sdpa --ways "64 at a time" generate_outputs "continuous batching" vllm

On a CPU in CPU seconds, since wall time says little on a machine that others use; on a GPU, and with vLLM, which works
in other processes, in wall time. The last line is for a GPU: "64 at a time" is what `evaluate` did before it looked at
the memory.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from trl_segment.evaluation.continuous_batching import ContinuousDecoder
from trl_segment.evaluation.generation import DecodingConfig, Request, end_token_ids, generate_outputs
from trl_segment.evaluation.outputs import read_problems
from trl_segment.traces import render_prompt


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"


def with_ours(model, tokenizer, requests, ends, limit, batch_size):
    """Token IDs by request, with the decoder of this package; on a GPU its memory says how many at a time."""
    config = DecodingConfig(max_new_tokens=limit)
    batch_size = batch_size if model.device.type == "cpu" else None
    return {output.id: output.token_ids for output in generate_outputs(model, requests, ends, config, batch_size)}


def with_64(model, tokenizer, requests, ends, limit, batch_size):
    """Token IDs by request, with the decoder of this package and a small batch."""
    config = DecodingConfig(max_new_tokens=limit)
    return {output.id: output.token_ids for output in generate_outputs(model, requests, ends, config, 64)}


def with_generate(model, tokenizer, requests, ends, limit, batch_size, cache=None):
    """Token IDs by request, with transformers' own loop."""
    written = {}
    requests = sorted(requests, key=lambda request: len(request.prompt_ids))
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        padded = tokenizer.pad(
            {"input_ids": [request.prompt_ids for request in batch]}, padding_side="left", return_tensors="pt"
        )
        ids = model.generate(
            **padded.to(model.device),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id,
            cache_implementation=cache,
        )
        for request, row in zip(batch, ids[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            written[request.id] = up_to_end(row, ends)
    return written


def with_continuous_batching(model, tokenizer, requests, ends, limit, batch_size):
    """Token IDs by request, with transformers' continuous batching and a cache that holds `batch_size` outputs."""
    if model.device.type != "cpu":
        decode = ContinuousDecoder(model, ends, DecodingConfig(max_new_tokens=limit))
        return {output.id: output.token_ids for output in decode(requests)}
    page = 32
    pages = -(-(max(len(request.prompt_ids) for request in requests) + limit) // page)
    made = model.generate_batch(
        [list(request.prompt_ids) for request in requests],
        generation_config=GenerationConfig(
            max_new_tokens=limit, do_sample=False, eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id
        ),
        # Left to itself it takes nine tenths of the memory that is free, and fills it
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=page, num_blocks=pages * batch_size, max_batch_tokens=256, max_requests_per_batch=batch_size
        ),
        warmup=False,
    )
    written = {}
    for name, output in made.items():
        written[requests[int(name.rpartition("_")[2])].id] = up_to_end(list(output.generated_tokens), ends)
    return written


@functools.cache
def vllm_decoder(path, dtype, limit):
    """An engine that is started once."""
    from trl_segment.evaluation.vllm_backend import VLLMDecoder

    return VLLMDecoder(path, AutoTokenizer.from_pretrained(path), DecodingConfig(max_new_tokens=limit), dtype=dtype)


def with_vllm(model, tokenizer, requests, ends, limit, batch_size):
    """Token IDs by request, with vLLM."""
    decode = vllm_decoder(tokenizer.name_or_path, str(model.dtype).removeprefix("torch."), limit)
    return {output.id: output.token_ids for output in decode(requests)}


def up_to_end(row, ends):
    return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]


def measure(clock, decode, model, *arguments):
    started = clock()
    made = decode(model, *arguments)
    return clock() - started, made


OURS = "generate_outputs"
WAYS = {
    OURS: with_ours,
    "64 at a time": with_64,
    "model.generate": with_generate,
    "model.generate, static cache": functools.partial(with_generate, cache="static"),
    "continuous batching": with_continuous_batching,
    "vllm": with_vllm,
}


def compare(args, models, tokenizer, requests):
    """Several ways with several attention kernels, in turns, so that what else the machine does meets all alike."""
    seconds, outputs = {}, {}
    on_cpu = next(iter(models.values())).device.type == "cpu"
    clock = time.process_time if on_cpu and "vllm" not in args.ways else time.perf_counter
    if "vllm" in args.ways:
        for model in models.values():
            vllm_decoder(tokenizer.name_or_path, str(model.dtype).removeprefix("torch."), args.max_new_tokens)
    for _ in range(args.rounds):
        for attention, model in models.items():
            ends = end_token_ids(model.generation_config, tokenizer)
            for name in args.ways:
                spent, made = measure(
                    clock, WAYS[name], model, tokenizer, requests, ends, args.max_new_tokens, args.batch_size
                )
                seconds.setdefault((name, attention), []).append(spent)
                outputs[name, attention] = made
                print(f"  {name}, {attention}: {spent:.1f}", file=sys.stderr, flush=True)
    medians = {way: statistics.median(spent) for way, spent in seconds.items()}
    best = min(median for (name, _), median in medians.items() if name == OURS)
    lengths = sorted(len(ids) for (name, _), made in outputs.items() for ids in made.values() if name == OURS)
    print(
        f"{len(requests)} prompts in batches of {args.batch_size}; {statistics.mean(lengths):.0f} tokens on average, "
        f"median {statistics.median(lengths):.0f}, at most {lengths[-1]}; medians of {args.rounds} rounds"
    )
    for (name, attention), spent in seconds.items():
        same = sum(outputs[OURS, attention][i] == ids for i, ids in outputs[name, attention].items())
        print(
            f"  {name}, {attention}: {medians[name, attention]:.1f} {'CPU ' * (clock is time.process_time)}seconds "
            f"({min(spent):.1f} to {max(spent):.1f}), {medians[name, attention] / best:.2f} times ours, "
            f"{sum(map(len, outputs[name, attention].values())) / medians[name, attention]:,.0f} tokens/s, {same} "
            "outputs the same",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(WORLD / "checkpoint"))
    parser.add_argument("--problems", default=str(WORLD / "problems.jsonl"))
    parser.add_argument("--count", type=int, default=100, help="problems, repeated if there are fewer")
    parser.add_argument("--max_new_tokens", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="every way of transformers, with ratios to ours")
    parser.add_argument("--rounds", type=int, default=3, help="of --compare, whose medians are printed")
    parser.add_argument("--attention", nargs="+", default=["sdpa", "eager"], help="kernels of --compare")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto", help="precision of the weights; default: that of the checkpoint")
    known = [name for name in WAYS if name not in ("vllm", "64 at a time")]
    parser.add_argument("--ways", nargs="+", default=known, choices=list(WAYS), help="of --compare")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [json.loads(line) for line in Path(args.problems).read_text(encoding="utf-8").splitlines()]
    problems = read_problems(rows)
    requests = [
        Request(f"{i}", 0, tokenizer(render_prompt(problems[i % len(problems)].trace, tokenizer))["input_ids"])
        for i in range(args.count)
    ]
    models = {
        attention: AutoModelForCausalLM.from_pretrained(args.model, attn_implementation=attention, dtype=args.dtype)
        .to(args.device)
        .eval()
        for attention in (args.attention if args.compare else ("sdpa", "eager"))
    }
    if args.compare:
        compare(args, models, tokenizer, requests)
        return
    outputs = {}
    for name, attention in (("model.generate", "sdpa"), ("model.generate", "eager"), (OURS, "eager")):
        ends = end_token_ids(models[attention].generation_config, tokenizer)
        seconds, made = measure(
            time.process_time,
            WAYS[name],
            models[attention],
            tokenizer,
            requests,
            ends,
            args.max_new_tokens,
            args.batch_size,
        )
        tokens = sum(map(len, made.values()))
        outputs[name, attention] = made
        print(
            f"{name}, {attention}: {seconds:.1f} CPU seconds for {len(made)} outputs of "
            f"{tokens / len(made):.0f} tokens, {tokens / seconds:,.0f} tokens/s",
            flush=True,
        )
    reference = outputs["model.generate", "eager"]
    same = sum(reference[i] == ids for i, ids in outputs[OURS, "eager"].items())
    print(f"{same} of {len(reference)} outputs are the same token for token")


if __name__ == "__main__":
    main()
