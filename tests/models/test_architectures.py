"""Every architecture that the engine is meant for, from a tiny config, against Captum on the same nodes."""

import inspect

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from trl_segment.attribution import BackwardSweep, IntegratedGradients


VOCAB, BASELINE = 97, 11
_COMMON = {
    "vocab_size": VOCAB,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_LLAMA_LIKE = {
    **_COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
# Config class, and what is special about the architecture
ARCHITECTURES = {
    "qwen2": ("Qwen2Config", {**_LLAMA_LIKE}),
    "qwen3": ("Qwen3Config", {**_LLAMA_LIKE, "head_dim": 8}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_LLAMA_LIKE, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "llama": ("LlamaConfig", {**_LLAMA_LIKE}),
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "head_dim": 8, "sliding_window": 8}),
    # Scaled embeddings, caps on attention scores and logits
    "gemma2": (
        "Gemma2Config",
        {
            **_LLAMA_LIKE,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "final_logit_softcapping": 2.0,
            "attn_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_LLAMA_LIKE,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "phi3": ("Phi3Config", {**_LLAMA_LIKE}),
    "olmo": ("OlmoConfig", {**_LLAMA_LIKE}),
    "olmo2": ("Olmo2Config", {**_LLAMA_LIKE}),
    "gpt2": ("GPT2Config", {**_COMMON, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt_neox": ("GPTNeoXConfig", {k: v for k, v in _LLAMA_LIKE.items() if k != "num_key_value_heads"}),
    "cohere": ("CohereConfig", {**_LLAMA_LIKE, "logit_scale": 0.25}),
    "granite": (
        "GraniteConfig",
        {
            **_LLAMA_LIKE,
            "logits_scaling": 4.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
    ),
    # A dense layer, then a mixture of experts; compressed keys and values
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **_LLAMA_LIKE,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
}

IDS = np.random.default_rng(0).integers(4, VOCAB, 24)
TARGET = (21, 24)
SEGMENTS = [(3, 9), (9, 12), (12, 20)]


def make_model(architecture, dtype=torch.float32, attention=None, **overrides):
    """A random model, always the same one."""
    name, settings = ARCHITECTURES[architecture]
    config = getattr(transformers, name)(**{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return model.to(dtype).eval()


def captum(model, method, nodes=8, target=TARGET):
    """Token attributions by Captum from the plain forward function: the logits of all positions."""
    from captum.attr import LayerIntegratedGradients

    ids = torch.as_tensor(IDS)[None]
    start, end = target

    def forward(input_ids):
        # Captum repeats the inputs, not the answer, which is the same in every row
        log_probs = model(input_ids=input_ids, use_cache=False).logits[:, start - 1 : end - 1].log_softmax(dim=-1)
        return log_probs[:, torch.arange(end - start), ids[0, start:end]].sum(dim=-1)

    attributions = LayerIntegratedGradients(forward, model.get_input_embeddings()).attribute(
        ids, baselines=torch.full_like(ids, BASELINE), n_steps=nodes, method=method
    )
    return attributions[0].double().sum(dim=-1).detach().numpy()


def ours(model, rule="midpoint", evaluations=8, **kwargs):
    engine = IntegratedGradients(model, rule=rule, evaluations=evaluations, baseline=BASELINE, **kwargs, path="all")
    return engine.attribute(IDS, TARGET, SEGMENTS).tokens


def distance(attributions, reference):
    """Largest difference, as a share of the largest attribution."""
    assert attributions.shape == reference.shape and np.isfinite(attributions).all()
    largest = np.abs(reference).max()
    assert largest > 1e-2, "nothing to compare"
    return np.abs(attributions - reference).max() / largest


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_captum_on_the_same_nodes(architecture, tied):
    model = make_model(architecture, tie_word_embeddings=tied)
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert shared == tied
    for rule, method in (("midpoint", "riemann_middle"), ("gauss_legendre", "gausslegendre")):
        assert distance(ours(model, rule), captum(model, method)) <= 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "gpt2"])
def test_equals_captum_under_either_attention(architecture, attention):
    try:
        model = make_model(architecture, attention=attention)
    except ValueError as error:  # sdpa cannot cap attention scores, and newer transformers say so
        assert "does not support an attention implementation" in str(error)
        pytest.skip(f"{architecture} has no {attention} attention in transformers {transformers.__version__}")
    assert model.config._attn_implementation == attention
    assert distance(ours(model), captum(model, "riemann_middle")) <= 1e-5


@pytest.mark.parametrize(
    ("architecture", "without"),
    [
        ("gemma2", {"final_logit_softcapping": None}),
        ("granite", {"logits_scaling": 1.0}),
        ("cohere", {"logit_scale": 1.0}),
    ],
)
def test_what_the_head_does_to_the_logits_counts(architecture, without):
    """The caps and scales above are not too weak to be seen."""
    assert distance(ours(make_model(architecture)), ours(make_model(architecture, **without))) > 0.2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_answer_gets_logits(architecture):
    model = make_model(architecture)
    assert "logits_to_keep" in inspect.signature(type(model).forward).parameters
    lengths = set()
    model.get_output_embeddings().register_forward_pre_hook(lambda module, args: lengths.add(args[0].shape[1]))
    ours(model)
    assert lengths == {TARGET[1] - TARGET[0]}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_backward_sweep_equals_whole_passes_without_a_cache(architecture):
    """Sliding windows and compressed keys too: what stands in front of a segment is computed once and cut off."""
    model = make_model(architecture)

    def answer(ids, segments):
        ids = [*ids[:3], *(i for a, b in segments for i in ids[a:b]), *ids[20:24]]
        with torch.no_grad():
            log_probs = model(torch.tensor(np.array(ids))[None], use_cache=False).logits[0].log_softmax(-1)
        return sum(log_probs[t - 1, ids[t]].item() for t in range(len(ids) - 3, len(ids)))

    largest = 0.0
    for ids in (IDS, IDS[::-1].copy()):
        kept, losses = list(SEGMENTS), []
        for segment in reversed(SEGMENTS):
            without = [other for other in kept if other != segment]
            losses.append(answer(ids, kept) - answer(ids, without))
            if losses[-1] < 0.3:
                kept = without
        result = BackwardSweep(model, threshold=0.3).attribute(ids, TARGET, SEGMENTS)
        strength = result.segments.strength
        np.testing.assert_allclose(strength, np.maximum(losses[::-1], 0), atol=1e-4)
        largest = max(largest, strength.max())
    assert largest > 0.01, "nothing to compare"


# What rounding to 8 bits does to random weights this large; a routing that tips over costs more
_MIXTURES = ("qwen3_moe", "deepseek_v3")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_is_near_float32(architecture):
    half = make_model(architecture, torch.bfloat16)
    exact = make_model(architecture, torch.bfloat16).float()  # the same rounded weights
    reference = ours(exact, evaluations=16)
    attributions = ours(half, evaluations=16)
    assert np.isfinite(attributions).all() and attributions.dtype == np.float64
    error = np.abs(attributions - reference).sum() / np.abs(reference).sum()
    assert error < (0.2 if architecture in _MIXTURES else 0.04)


def test_four_bit_weights(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    make_model("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config, device_map={"": device}, dtype=torch.float32
    )
    exact = make_model("llama", hidden_size=64, intermediate_size=128)
    with torch.no_grad():  # what the quantized layers compute with
        for name, module in model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(module.weight, module.weight.quant_state)
                exact.get_submodule(name).weight.copy_(weight.float())
    assert distance(ours(model), ours(exact)) < 1e-3


def is_checkpointed(model):
    """Whether every layer is recomputed."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert layers
    return all("forward" in layer.__dict__ for layer in layers)


def record_forwards(model):
    """Rows times tokens of every forward pass, and whether it was a checkpointed one."""
    seen = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            (kwargs["input_ids"].numel(), is_checkpointed(model), torch.is_grad_enabled())
        ),
        with_kwargs=True,
    )
    return seen


# Dropout that would show if checkpointing went by way of training mode
_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "phi3": {"resid_pdrop": 0.5, "attention_dropout": 0.5},
    "cohere": {"attention_dropout": 0.5},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointing_changes_nothing_but_memory(architecture):
    settings = _DROPOUT.get(architecture, {"attention_dropout": 0.5})
    model = make_model(architecture, **settings).train()
    plain = ours(model, max_tokens_per_forward=23)  # the answer's last token is not fed: exactly one row
    seen = record_forwards(model)
    random_state = torch.get_rng_state()
    checkpointed = ours(model, max_tokens_per_forward=22)
    assert np.array_equal(checkpointed, ours(model, max_tokens_per_forward=22))
    assert distance(checkpointed, plain) <= 1e-6
    # One row at a time, and only where there is a backward pass
    assert {(23, True, True), (23, False, False)} == set(seen)
    # All is as before
    assert all(module.training for module in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_checkpointing_really_recomputes():
    model = make_model("llama")
    calls = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, args: calls.append(1))
    counts = {}
    for budget in (23, 22):
        calls.clear()
        ours(model, evaluations=4, max_tokens_per_forward=budget)
        counts[budget] = len(calls)
    # Besides the nodes both ends, and the look at whether embeddings are all that is read
    assert counts == {23: 4 + 3, 22: 2 * 4 + 3}


def test_checkpointing_puts_a_wrapped_forward_back():
    """Such as accelerate's, which sits in the layer's own attributes."""
    model = make_model("llama")
    plain = ours(model)
    layer = model.model.layers[1]
    calls, own = [], layer.forward

    def wrapped(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    layer.forward = wrapped
    assert distance(ours(model, max_tokens_per_forward=1), plain) <= 1e-6
    assert calls and layer.forward is wrapped and "forward" not in model.model.layers[0].__dict__


def limit_memory(monkeypatch, model, limit, checkpointed_limit, error=None):
    """Passes over more tokens than `limit` fail where activations are kept for a backward pass."""
    forward, sizes = model.forward, []
    error = error or torch.OutOfMemoryError("CUDA out of memory")

    def limited(*args, input_ids, **kwargs):
        if torch.is_grad_enabled():
            sizes.append(input_ids.numel())
            if input_ids.numel() > (checkpointed_limit if is_checkpointed(model) else limit):
                raise error
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", limited)
    return sizes


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("rule", ["midpoint", "simpson"])
def test_out_of_memory_halves_the_budget(monkeypatch, rule, rows):
    model = make_model("qwen2")
    evaluations = 16 if rule == "midpoint" else 31
    expected = ours(model, rule, evaluations)
    sizes = limit_memory(monkeypatch, model, limit=rows * 23, checkpointed_limit=0)
    engine = IntegratedGradients(model, rule, evaluations, baseline=BASELINE, max_tokens_per_forward=16384, path="all")
    result = engine.attribute(IDS, TARGET, SEGMENTS)
    assert distance(result.tokens, expected) <= 1e-5
    assert 23 <= engine.max_tokens_per_forward <= rows * 23
    # It is remembered: the next trace does not run out of memory again
    failed = len(sizes)
    engine.attribute(IDS, TARGET, SEGMENTS)
    assert max(sizes[failed:]) <= rows * 23


def test_out_of_memory_with_one_row_checkpoints(monkeypatch):
    model = make_model("qwen2").train()
    expected = ours(model)
    sizes = limit_memory(monkeypatch, model, limit=22, checkpointed_limit=23)
    engine = IntegratedGradients(model, "midpoint", 8, baseline=BASELINE, path="all")
    assert distance(engine.attribute(IDS, TARGET, SEGMENTS).tokens, expected) <= 1e-5
    # Each failure halves what is planned: with none, then with some, then with every layer recomputed
    assert 8 < len(sizes) <= 8 + 3
    engine.attribute(IDS, TARGET, SEGMENTS)
    assert len(sizes) <= 16 + 3
    assert model.training and not is_checkpointed(model)
    # A shorter trace may still fit uncheckpointed
    shorter = engine.attribute(IDS[-8:], (5, 8), [(0, 3)])
    assert shorter.finite


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["cuda", "cpu"],
)
def test_what_does_not_fit_at_all_is_said(monkeypatch, error):
    model = make_model("qwen2").train()
    limit_memory(monkeypatch, model, limit=0, checkpointed_limit=0, error=error)
    engine = IntegratedGradients(model, "midpoint", 8, baseline=BASELINE, path="all")
    with pytest.raises(MemoryError, match=r"23 tokens does not fit even alone and with gradient checkpoint"):
        engine.attribute(IDS, TARGET, SEGMENTS)
    assert model.training and not is_checkpointed(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    model = make_model("qwen2")
    limit_memory(monkeypatch, model, limit=0, checkpointed_limit=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        ours(model)
