"""
Would it pay to compute the prompt's keys and values once on the reasoning-only path? Time of a gradient evaluation
with a cached prompt against one over the whole sequence, in turns; the largest difference of the gradients beside it.

    OMP_NUM_THREADS=1 python benchmarks/prompt_cache.py    # under a minute
"""

import copy
import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


def gradient(model, embeddings, fixed, cache=None):
    """Gradient of a log-probability with respect to the embeddings behind the first `fixed` ones."""
    leaf = embeddings[:, fixed:].clone().requires_grad_(True)
    if cache is None:
        inputs = {"inputs_embeds": torch.cat([embeddings[:, :fixed], leaf], dim=1), "use_cache": False}
    else:  # a copy, since a forward pass appends to the cache it is given
        inputs = {"inputs_embeds": leaf, "past_key_values": copy.deepcopy(cache), "use_cache": True}
    value = model(**inputs, logits_to_keep=3).logits.log_softmax(-1)[..., 7].sum()
    return torch.autograd.grad(value, leaf)[0]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32000, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=8192,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    print("| tokens | prompt | cached / whole | difference |\n| --- | --- | --- | --- |")
    for tokens, prompt in ((1024, 150), (2048, 150), (2048, 1024)):
        embeddings = model.get_input_embeddings()(torch.randint(5, 32000, (1, tokens)))
        with torch.no_grad():
            cache = model(inputs_embeds=embeddings[:, :prompt], use_cache=True, logits_to_keep=1).past_key_values
        whole, cached = gradient(model, embeddings, prompt), gradient(model, embeddings, prompt, cache)
        ratios = []
        for _ in range(5):
            started = time.perf_counter()
            gradient(model, embeddings, prompt)
            middle = time.perf_counter()
            gradient(model, embeddings, prompt, cache)
            ratios.append((time.perf_counter() - middle) / (middle - started))
        difference = (whole - cached).abs().max() / whole.abs().max()
        print(f"| {tokens:,} | {prompt:,} | {statistics.median(ratios):.2f} | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
