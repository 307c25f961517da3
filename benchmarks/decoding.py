"""
Decoding with `generate_outputs` and with `model.generate`: the same outputs, how fast.

    python benchmarks/decoding.py
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_segment.evaluation.generation import DecodingConfig, Request, end_token_ids, generate_outputs
from trl_segment.evaluation.outputs import read_problems
from trl_segment.traces.alignment import render_prompt


WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"


def with_generate(model, tokenizer, requests, ends, limit, batch_size):
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
        )
        for request, row in zip(batch, ids[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            written[request.id] = row[:end]
    return written


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(WORLD / "checkpoint"))
    parser.add_argument("--problems", default=str(WORLD / "problems.jsonl"))
    parser.add_argument("--count", type=int, default=100, help="problems, repeated if there are fewer")
    parser.add_argument("--max_new_tokens", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [json.loads(line) for line in Path(args.problems).read_text(encoding="utf-8").splitlines()]
    problems = read_problems(rows)
    requests = [
        Request(f"{i}", 0, tokenizer(render_prompt(problems[i % len(problems)].trace, tokenizer))["input_ids"])
        for i in range(args.count)
    ]
    outputs = {}
    # CPU seconds: wall time says little on a machine that others use
    for name, attention in (("model.generate", "sdpa"), ("model.generate", "eager"), ("generate_outputs", "eager")):
        model = AutoModelForCausalLM.from_pretrained(args.model, attn_implementation=attention).eval()
        ends = end_token_ids(model, tokenizer)
        started = time.process_time()
        if name == "model.generate":
            made = with_generate(model, tokenizer, requests, ends, args.max_new_tokens, args.batch_size)
        else:
            config = DecodingConfig(max_new_tokens=args.max_new_tokens)
            made = {o.id: o.token_ids for o in generate_outputs(model, requests, ends, config, args.batch_size)}
        seconds = time.process_time() - started
        tokens = sum(map(len, made.values()))
        outputs[name, attention] = made
        print(
            f"{name}, {attention}: {seconds:.1f} CPU seconds for {len(made)} outputs of "
            f"{tokens / len(made):.0f} tokens, {tokens / seconds:,.0f} tokens/s",
            flush=True,
        )
    reference = outputs["model.generate", "eager"]
    same = sum(reference[i] == ids for i, ids in outputs["generate_outputs", "eager"].items())
    print(f"{same} of {len(reference)} outputs are the same token for token")


if __name__ == "__main__":
    main()
