"""
Decoding with `generate_outputs` and with transformers: the same outputs, how fast.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --compare --count 64    # every way that transformers has, as ratios to ours

CPU seconds, not wall time, which says little on a machine that others use.
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

from trl_segment.evaluation.generation import DecodingConfig, Request, end_token_ids, generate_outputs
from trl_segment.evaluation.outputs import read_problems
from trl_segment.traces import render_prompt


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"


def with_ours(model, tokenizer, requests, ends, limit, batch_size):
    """Token IDs by request, with the decoder of this package."""
    config = DecodingConfig(max_new_tokens=limit)
    return {output.id: output.token_ids for output in generate_outputs(model, requests, ends, config, batch_size)}


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
            **padded,
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


def up_to_end(row, ends):
    return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]


def measure(decode, model, *arguments):
    started = time.process_time()
    made = decode(model, *arguments)
    return time.process_time() - started, made


OURS = "generate_outputs"
WAYS = {
    OURS: with_ours,
    "model.generate": with_generate,
    "model.generate, static cache": functools.partial(with_generate, cache="static"),
    "continuous batching": with_continuous_batching,
}


def compare(args, models, tokenizer, requests):
    """Several ways with several attention kernels, in turns, so that what else the machine does meets all alike."""
    seconds, outputs = {}, {}
    for _ in range(args.rounds):
        for attention, model in models.items():
            ends = end_token_ids(model.generation_config, tokenizer)
            for name in args.ways:
                spent, made = measure(
                    WAYS[name], model, tokenizer, requests, ends, args.max_new_tokens, args.batch_size
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
            f"  {name}, {attention}: {medians[name, attention]:.1f} CPU seconds ({min(spent):.1f} to "
            f"{max(spent):.1f}), {medians[name, attention] / best:.2f} times ours, {same} outputs the same",
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
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="of --compare")
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
        attention: AutoModelForCausalLM.from_pretrained(args.model, attn_implementation=attention).eval()
        for attention in (args.attention if args.compare else ("sdpa", "eager"))
    }
    if args.compare:
        compare(args, models, tokenizer, requests)
        return
    outputs = {}
    for name, attention in (("model.generate", "sdpa"), ("model.generate", "eager"), (OURS, "eager")):
        ends = end_token_ids(models[attention].generation_config, tokenizer)
        seconds, made = measure(
            WAYS[name], models[attention], tokenizer, requests, ends, args.max_new_tokens, args.batch_size
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
