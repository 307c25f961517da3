"""The cost formula against PyTorch's own counters, and against hand computation."""

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM

from trl_segment.attribution.cost import activation_bytes, count_weights, estimate_cost, forward_flops


SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIG = Qwen2Config(vocab_size=500, num_key_value_heads=2, tie_word_embeddings=False, **SHAPE)


def test_weights_are_counted_without_making_them():
    model = Qwen2ForCausalLM(CONFIG)
    every, in_layers = count_weights(CONFIG)
    assert every == sum(parameter.numel() for parameter in model.parameters())
    assert in_layers == every - 2 * 500 * 64
    tied = Qwen2Config(vocab_size=500, num_key_value_heads=2, tie_word_embeddings=True, **SHAPE)
    assert count_weights(tied) == (every - 500 * 64, in_layers)


def evaluate(tokens, counter):
    """A gradient evaluation under a counter: operations of the forward pass, and bytes kept for the backward one."""
    model = Qwen2ForCausalLM(CONFIG).eval().requires_grad_(False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    leaf = torch.randn(1, tokens, 64, requires_grad=True)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        value = model(inputs_embeds=leaf * 1, use_cache=False, logits_to_keep=1).logits.sum()
        forward = counter.get_total_flops()
        torch.autograd.grad(value, leaf)
    return forward, sum(size for size, _ in kept.values())


@pytest.mark.parametrize("tokens", [128, 512])
def test_operations_are_those_that_pytorch_counts(tokens):
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):  # PyTorch does not count the fused kernel on CPU
        forward, _ = evaluate(tokens, counter)
    ours = forward_flops(CONFIG, np.array([tokens]), count_weights(CONFIG)[1])[0]
    pairs = 2 * 3 * 64 * tokens**2
    # This kernel computes every pair of positions, causal ones half of them
    assert forward == pytest.approx(ours + pairs, rel=0.01)
    assert counter.get_total_flops() - forward == pytest.approx(ours + 3 * pairs, rel=0.01)
    estimate = estimate_cost(CONFIG, [tokens], evaluations=1)
    assert estimate.flops == pytest.approx(counter.get_total_flops() - 3 * pairs + 2 * ours, rel=0.01)


def test_memory_is_what_autograd_keeps():
    _, kept = evaluate(384, FlopCounterMode(display=False))
    assert activation_bytes(CONFIG, np.array([384]), 4)[0] == pytest.approx(kept, rel=0.06)


def test_estimate_by_hand():
    """One layer of width 8, two heads of 4, one key head, MLP 16, vocabulary 10, three traces."""
    config = LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    in_layers = 8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 16 + 3 * 8
    assert count_weights(config) == (in_layers + 2 * 10 * 8, in_layers)
    lengths = [10, 20, 40]

    def forward(t):
        return 2 * in_layers * t + 2 * 8 * t * t

    expected = sum(5 * (2 * forward(t) + 2 * 8 * t * t) + 2 * forward(t) for t in lengths)
    cost = estimate_cost(config, lengths, evaluations=5, devices=2, device_tflops=3, utilization=0.5)
    assert cost.flops == pytest.approx(expected)
    assert cost.device_hours == pytest.approx(expected / 1.5e12 / 3600)
    assert cost.hours == pytest.approx(cost.device_hours / 2)
    assert (cost.traces, cost.tokens, cost.longest) == (3, 70, 40)
    assert cost.weights_gib == pytest.approx(2 * (in_layers + 160) / 2**30)
    per_token = 2 * 4 * 8 + 2 * (2 * 8 + 2 * 4 + 3 * 16)
    # All five nodes of a trace together, and the longest alone
    assert cost.activations_gib == pytest.approx(200 * per_token / 2**30)
    assert cost.least_activations_gib == pytest.approx(40 * (per_token + 2 * 8) / 2**30)
    assert cost.least_gib == cost.weights_gib + cost.least_activations_gib < cost.gib
    assert "3 traces, 70 tokens (longest 40)" in str(cost)

    # A budget under the longest trace: it runs checkpointed, with one more forward pass each
    tight = estimate_cost(config, lengths, evaluations=5, max_tokens_per_forward=20)
    assert tight.flops == pytest.approx(expected + 5 * forward(40))
    assert tight.activations_gib == pytest.approx(max(20 * per_token, 40 * (per_token + 16)) / 2**30)
    # Sharded, a device holds its part and the layers in hand
    sharded = estimate_cost(config, lengths, evaluations=5, devices=4, sharded=True)
    assert sharded.weights_gib == pytest.approx(2 * ((in_layers + 160) / 4 + 2 * in_layers) / 2**30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "at least one trace"),
        ({"tokens": [5, 0]}, "must be positive"),
        ({"evaluations": 0}, "`evaluations` must be positive, but 0"),
        ({"devices": 0}, "`devices` must be positive"),
        ({"utilization": -1}, "`utilization` must be positive"),
    ],
)
def test_what_cannot_be_estimated_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        estimate_cost(CONFIG, **{"tokens": [5], "evaluations": 3, **change})
