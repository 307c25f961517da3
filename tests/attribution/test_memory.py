"""Plans of gradient passes: by hand, against what autograd keeps, and through the engine."""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer
from torch.autograd.graph import saved_tensors_hooks
from transformers import Qwen2Config, Qwen2ForCausalLM

from trl_segment.attribution import IntegratedGradients
from trl_segment.attribution.cost import activation_bytes, embedding_bytes, layer_bytes
from trl_segment.attribution.memory import PassPlan, fits, free_memory, plan_passes
from trl_segment.models import Passes, checkpointing


CONFIG = Qwen2Config(
    vocab_size=500,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
)
IDS, TARGET, SEGMENTS = np.arange(3, 203), (196, 200), [(10, 80), (80, 190)]


def kept_bytes(tokens, recomputed, attention="sdpa"):
    """What autograd holds for the backward pass outside of recomputed layers."""
    config = Qwen2Config(**{**CONFIG.to_dict(), "_attn_implementation": attention})
    model = Qwen2ForCausalLM._from_config(config, attn_implementation=attention).eval().requires_grad_(False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    leaf = torch.randn(1, tokens, 64, requires_grad=True)
    with checkpointing(model, recomputed), saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs_embeds=leaf * 1, use_cache=False, logits_to_keep=1).logits.sum()
    return sum(size for size, _ in kept.values()), model.config


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_recomputed_layer_saves_what_the_formula_says(attention):
    whole, config = kept_bytes(384, 0, attention)
    half, _ = kept_bytes(384, 3, attention)
    assert whole - half == pytest.approx(3 * layer_bytes(config, 384, 4), rel=0.09)


def test_plans_by_hand():
    layer, node = layer_bytes(CONFIG, 1000, 2), activation_bytes(CONFIG, 1000, 2) + embedding_bytes(CONFIG, 1000, 2)
    assert node == 6 * layer + 1000 * 64 * 20
    given = {"model_config": CONFIG, "tokens": 1000, "bytes_per_number": 2}
    assert plan_passes(memory=3.5 * node, most_nodes=8, **given) == PassPlan(3, 0)
    assert plan_passes(memory=100 * node, most_nodes=8, **given) == PassPlan(8, 0)
    assert plan_passes(memory=100 * node, most_nodes=0, **given) == PassPlan(1, 0)
    # A layer that is recomputed keeps its input of two bytes a number
    saved = layer - 2 * 64 * 1000
    assert plan_passes(memory=node - 0.5 * saved, most_nodes=8, **given) == PassPlan(1, 1)
    assert plan_passes(memory=node - 2.5 * saved, **given) == PassPlan(1, 3)
    assert plan_passes(memory=0, **given) == PassPlan(1, 6)
    # Processes that gather a layer's parameters together recompute all or none
    assert plan_passes(memory=node - 0.5 * saved, whole=True, **given) == PassPlan(1, 6)


def test_the_shapes_of_the_gpu_targets_fit():
    """7B at 32k tokens on 80 GB, and 1.5B at 8k in a third of the published loop's 23.3 GiB (on an H100)."""

    def qwen2(hidden, mlp, heads, key_heads):
        return Qwen2Config(
            hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=28, num_attention_heads=heads,
            num_key_value_heads=key_heads,
        )  # fmt: skip

    gib = 2**30
    plan = plan_passes(qwen2(3584, 18_944, 28, 4), 32_768, 0.8 * (74.5 - 14.2 - 1) * gib)
    assert plan.nodes == 1 and 0 < plan.recomputed_layers < 28
    plan = plan_passes(qwen2(1536, 8960, 12, 2), 8192, 0.9 * 23.3 / 3 * gib)
    # A forward pass is a third of an evaluation, so that 30 % of the speed are nine tenths of the layers
    assert plan.recomputed_layers / 28 / 3 < 0.3


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_tokenizer(), num_hidden_layers=4).eval()


def attribute(model, **options):
    engine = IntegratedGradients(model, rule="midpoint", evaluations=6, **options)
    return engine.attribute(IDS, TARGET, SEGMENTS).tokens


def test_attributions_do_not_depend_on_memory(model, monkeypatch):
    expected = attribute(model)
    node = float(activation_bytes(model.config, 199, 4) + embedding_bytes(model.config, 199, 4))
    plans = []
    gradients = Passes.gradients
    monkeypatch.setattr(
        Passes,
        "gradients",
        lambda self, nodes, real, base, layers: (
            plans.append((len(nodes), layers)) or gradients(self, nodes, real, base, layers)
        ),
    )
    assert attribute(model, memory=1e12) == pytest.approx(expected, abs=1e-9)
    assert plans == [(1, 0)] * 6
    for share, layers in ((1.0, {1, 2}), (0.01, {4})):
        plans.clear()
        assert attribute(model, memory=share * node) == pytest.approx(expected, rel=1e-5, abs=1e-9)
        assert {nodes for nodes, _ in plans} == {1} and {layer for _, layer in plans} <= layers


def test_a_pass_that_does_not_fit_after_all_is_planned_again(model, monkeypatch):
    expected = attribute(model)
    gradients, asked = Passes.gradients, []

    def crowded(self, nodes, real, base, layers):
        asked.append(layers)
        if layers < 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients(self, nodes, real, base, layers)

    monkeypatch.setattr(Passes, "gradients", crowded)
    node = float(activation_bytes(model.config, 199, 4) + embedding_bytes(model.config, 199, 4))
    engine = IntegratedGradients(model, rule="midpoint", evaluations=6, memory=2 * node)
    assert engine.attribute(IDS, TARGET, SEGMENTS).tokens == pytest.approx(expected, rel=1e-5, abs=1e-9)
    failures = [layers for layers in asked if layers < 3]
    assert failures == asked[: len(failures)] and len(asked) - len(failures) == 6
    # The next sequence knows
    asked.clear()
    engine.attribute(IDS, TARGET, SEGMENTS)
    assert min(asked) >= 3


def test_what_cannot_fit_says_so(model, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Passes, "gradients", full)
    with pytest.raises(MemoryError, match="of 199 tokens does not fit"):
        attribute(model)


def test_free_memory_of_a_cpu():
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_what_fits_in_a_device_by_hand():
    layer, node = layer_bytes(CONFIG, 1000, 2), activation_bytes(CONFIG, 1000, 2) + embedding_bytes(CONFIG, 1000, 2)
    model = Qwen2ForCausalLM(CONFIG)
    weights = 2 * sum(parameter.numel() for parameter in model.parameters())
    # Four fifths of what the weights leave are used
    assert fits(CONFIG, 1000, weights + 1.26 * node) == "yes"
    assert fits(CONFIG, 1000, weights + 1.24 * node) == "yes, with checkpointing"
    # The last layer is there anyway
    least = layer + 5 * 2 * 64 * 1000 + 1000 * 64 * 20
    assert fits(CONFIG, 1000, weights + 1.26 * least) == "yes, with checkpointing"
    assert fits(CONFIG, 1000, weights + 1.24 * least) == "no"
    assert fits(CONFIG, 1000, weights / 2) == "no"
