"""Attribution in hops against Captum and hand-made weights."""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment.attribution import IntegratedGradients, RecursiveAttribution


TARGET = (24, 26)
SEGMENTS = [(3, 9), (9, 14), (14, 21)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_tokenizer()).eval()


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(3, 300, size=30)


def unit(values):
    return values / np.abs(values).sum()


def weighted(model, ids, weights):
    """F of the hop as a function of embeddings, for Captum."""

    def value(embeddings):
        log_probs = model(inputs_embeds=embeddings).logits.log_softmax(-1)
        return sum(w * log_probs[:, t - 1, ids[t]] for t, w in enumerate(weights) if w)

    return value


def by_captum(model, ids, weights, steps):
    from captum.attr import IntegratedGradients as Captum

    embeddings = model.get_input_embeddings()(torch.tensor(ids)[None]).detach()
    found = Captum(weighted(model, ids, weights)).attribute(
        embeddings, torch.zeros_like(embeddings), n_steps=steps, method="riemann_middle"
    )
    return found.sum(-1)[0].double().numpy()


def test_without_hops_it_is_integrated_gradients(model, ids):
    result = RecursiveAttribution(model, hops=0, evaluations=4).attribute(ids, TARGET, SEGMENTS)
    plain = IntegratedGradients(model, rule="midpoint", evaluations=4, baseline="zero", path="all")
    plain = plain.attribute(ids, TARGET, SEGMENTS)
    np.testing.assert_allclose(result.tokens, unit(plain.tokens), atol=1e-6)
    assert result.f_input == pytest.approx(plain.f_input, rel=1e-5)
    assert result.evaluations == 4


def test_each_hop_attributes_what_the_last_one_found(model, ids):
    ids = ids[:26]
    weights, hops = np.zeros(26), []
    weights[24:26] = 1
    for _ in range(3):
        hops.append(by_captum(model, ids, weights, steps=4))
        weights = np.maximum(hops[-1], 0)
        weights[:3] = weights[21:] = 0
        weights /= weights.sum()
    result = RecursiveAttribution(model, hops=2, evaluations=4).attribute(ids, TARGET, SEGMENTS)
    expected = np.mean([unit(hop) for hop in hops], axis=0)
    np.testing.assert_allclose(result.tokens, expected, atol=1e-5)
    np.testing.assert_allclose(result.segments.sum_signed, [expected[a:b].sum() for a, b in SEGMENTS], atol=1e-5)
    assert result.evaluations == 12
    assert not np.allclose(hops[0] / np.abs(hops[0]).sum(), expected, atol=1e-2)


def test_a_baseline_of_its_own_moves_the_start_of_the_line(model, ids):
    zero = RecursiveAttribution(model, hops=0).attribute(ids, TARGET, SEGMENTS)
    other = RecursiveAttribution(model, hops=0, baseline=5).attribute(ids, TARGET, SEGMENTS)
    vector = model.get_input_embeddings().weight[5].detach()
    same = RecursiveAttribution(model, hops=0, baseline=vector).attribute(ids, TARGET, SEGMENTS)
    assert not np.allclose(zero.tokens, other.tokens, atol=1e-4)
    np.testing.assert_allclose(other.tokens, same.tokens, atol=1e-12)


@pytest.mark.parametrize(("hops", "evaluations"), [(-1, 2), (1, 0)])
def test_settings_that_cannot_work(hops, evaluations, model):
    with pytest.raises(ValueError, match="hops"):
        RecursiveAttribution(model, hops, evaluations)


def test_the_line_starts_at_what_the_embedding_module_hands_out():
    """Gemma scales what its table holds: the baseline by its token is that by its scaled vector."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval()
    ids = np.random.default_rng(0).integers(3, 300, size=30)
    with torch.no_grad():
        scaled = model.get_input_embeddings()(torch.tensor([11]))[0]
    assert not torch.allclose(scaled, model.get_input_embeddings().weight[11])
    by_token, by_vector = (
        RecursiveAttribution(model, hops=1, baseline=baseline).attribute(ids, TARGET, SEGMENTS).tokens
        for baseline in (11, scaled)
    )
    assert by_token == pytest.approx(by_vector, rel=1e-5, abs=1e-9)
