import logging
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from trl_segment.attribution import IntegratedGradients
from trl_segment.attribution.quadrature import gauss_legendre, midpoint, paper, trapezoid
from trl_segment.attribution.scorers.baselines import resolve_baseline
from trl_segment.models import frozen_mode


VOCAB, PAD, EOS = 61, 3, 5
_COMMON = {"vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
_SMALL = {
    **_COMMON,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
ARCHITECTURES = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SMALL)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**_COMMON, n_positions=128, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    ),
    # Scaled embeddings, a cap on attention and on the logits, sliding windows
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **{**_SMALL, "initializer_range": 0.15},
            head_dim=8,
            final_logit_softcapping=3.0,
            attn_logit_softcapping=5.0,
            query_pre_attn_scalar=8,
            sliding_window=8,
        )
    ),
}


def make_model(architecture="qwen2", dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ARCHITECTURES[architecture]()
        with torch.no_grad():  # transformers leaves it at zero
            model.get_input_embeddings().weight[PAD].normal_(std=0.3)
    return model.to(dtype).eval()


def make_ids(length=20, seed=0):
    return np.random.default_rng(seed).integers(6, VOCAB, length)


IDS = make_ids()
TARGET = (17, 20)
SEGMENTS = [(3, 7), (7, 8), (8, 15)]


def answer_log_probability(model, ids, target, embeddings):
    """F by the book: full logits, softmax, product of the answer's probabilities."""
    logits = model(inputs_embeds=embeddings).logits.double()
    start, end = target
    probabilities = logits[:, start - 1 : end - 1].softmax(dim=-1)
    answer = torch.as_tensor(ids[start:end])
    return probabilities[:, torch.arange(end - start), answer].log().sum(dim=1)


def embed(model, ids):
    """What the embedding module gives, scale included."""
    return model.get_input_embeddings()(torch.as_tensor(np.asarray(ids))[None]).detach()


def loop(model, ids, target, nodes, weights, base):
    """Integrated Gradients written out: one node after the other over the whole sequence."""
    real = embed(model, ids)
    total = torch.zeros(len(ids), dtype=torch.float64)
    for node, weight in zip(nodes, weights, strict=True):
        x = (base + float(node) * (real - base)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(answer_log_probability(model, ids, target, x).sum(), x)
        total += weight * ((real - base) * gradient)[0].double().sum(-1)
    return total.numpy()


def pad_base(model, ids):
    return embed(model, [PAD] * len(ids))


def close(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 1e-3, "nothing to compare"
    assert np.abs(ours - theirs).max() <= tolerance * scale


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_paper_rule_is_the_hand_written_loop(architecture):
    model = make_model(architecture, torch.float64)
    result = IntegratedGradients(model, "paper", 50, path="all").attribute(IDS, TARGET, SEGMENTS)
    expected = loop(model, IDS, TARGET, np.linspace(0, 1, 50), [1 / 50] * 50, pad_base(model, IDS))
    close(result.tokens, expected)
    # Per segment
    for i, (a, b) in enumerate(SEGMENTS):
        assert result.segments.num_tokens[i] == b - a
        assert result.segments.sum_abs[i] == pytest.approx(np.abs(expected[a:b]).sum(), rel=1e-5)
        assert result.segments.sum_signed[i] == pytest.approx(expected[a:b].sum(), rel=1e-4, abs=1e-6)
    # What F is
    f_input = answer_log_probability(model, IDS, TARGET, embed(model, IDS)).item()
    f_baseline = answer_log_probability(model, IDS, TARGET, pad_base(model, IDS)).item()
    assert result.f_input == pytest.approx(f_input, rel=1e-6)
    assert result.f_baseline == pytest.approx(f_baseline, rel=1e-6)
    assert result.completeness_gap == pytest.approx(expected.sum() - (f_input - f_baseline), abs=1e-4)
    assert (result.evaluations, result.stopped_by, result.finite) == (50, "nodes", True)


@pytest.mark.parametrize(
    ("rule", "nodes_and_weights"),
    [("paper", paper), ("midpoint", midpoint), ("trapezoid", trapezoid), ("gauss_legendre", gauss_legendre)],
)
def test_every_rule_is_the_loop_over_its_nodes(rule, nodes_and_weights):
    model = make_model(dtype=torch.float64)
    result = IntegratedGradients(model, rule, 7, path="all").attribute(IDS, TARGET, SEGMENTS)
    close(result.tokens, loop(model, IDS, TARGET, *nodes_and_weights(7), pad_base(model, IDS)))
    assert result.evaluations == 7


@pytest.mark.parametrize(("rule", "method"), [("gauss_legendre", "gausslegendre"), ("midpoint", "riemann_middle")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_captum_layer_integrated_gradients(architecture, rule, method):
    from captum.attr import LayerIntegratedGradients

    model = make_model(architecture, torch.float64)
    ids = torch.as_tensor(IDS)[None]
    start, end = TARGET

    def forward(input_ids):
        # Captum repeats inputs but not the answer, which is the same in every row
        log_probs = model(input_ids=input_ids).logits[:, start - 1 : end - 1].log_softmax(-1)
        return log_probs[:, torch.arange(end - start), ids[0, start:end]].sum(-1)

    attributions, delta = LayerIntegratedGradients(forward, model.get_input_embeddings()).attribute(
        ids, baselines=torch.full_like(ids, PAD), n_steps=16, method=method, return_convergence_delta=True
    )
    result = IntegratedGradients(model, rule, 16, path="all").attribute(IDS, TARGET, SEGMENTS)
    close(result.tokens, attributions[0].sum(-1).detach().double().numpy())
    assert result.completeness_gap == pytest.approx(delta.item(), abs=1e-5)


def test_equals_captum_integrated_gradients_in_float32():
    from captum.attr import IntegratedGradients as CaptumIntegratedGradients

    model = make_model()

    def forward(embeddings):
        return answer_log_probability(model, IDS, TARGET, embeddings)

    attributions = CaptumIntegratedGradients(forward).attribute(
        embed(model, IDS), baselines=pad_base(model, IDS), n_steps=16, method="gausslegendre"
    )
    result = IntegratedGradients(model, "gauss_legendre", 16, path="all").attribute(IDS, TARGET, SEGMENTS)
    close(result.tokens, attributions[0].sum(-1).detach().double().numpy(), 2e-5)


@pytest.mark.parametrize(("rule", "shrinks"), [("paper", 4), ("trapezoid", 20), ("midpoint", 20)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_completeness_closes_as_nodes_grow(architecture, rule, shrinks):
    """With eight times the nodes: the paper's rule gains a factor of about 8, the second-order rules one of 64."""
    model = make_model(architecture, torch.float64)
    few, many = (IntegratedGradients(model, rule, n, path="all").attribute(IDS, TARGET) for n in (64, 512))
    assert abs(few.completeness_gap) > 1e-4
    assert abs(many.completeness_gap) < abs(few.completeness_gap) / shrinks
    assert abs(many.completeness_gap) < 0.2 * abs(many.f_input - many.f_baseline)


def test_nodes_run_together_or_alone_give_the_same():
    model = make_model(dtype=torch.float64)
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    results = {}
    for budget in (1, 19, 19 * 3 + 5, 10**6):
        seen.clear()
        engine = IntegratedGradients(model, "midpoint", 8, max_tokens_per_forward=budget, path="all")
        results[budget] = engine.attribute(IDS, TARGET, SEGMENTS)
        # The last answer token is not fed: 19 tokens
        together = {1: 1, 19: 1, 62: 3, 10**6: 8}[budget]
        rows = [batch for batch, length in seen]
        assert all(length == 19 for _, length in seen)
        # Both ends, and once for a scorer whether the embeddings are all that the model reads
        assert max(rows) == together and sum(rows) == 8 + 2 + 1
    handle.remove()
    for result in results.values():
        close(result.tokens, results[1].tokens, 1e-6)
        assert result.f_input == results[1].f_input and result.evaluations == 8


def test_reasoning_path_moves_the_reasoning_alone():
    model = make_model(dtype=torch.float64)
    base = embed(model, IDS)
    base[:, 3:15] = pad_base(model, IDS)[:, 3:15]
    result = IntegratedGradients(model, "gauss_legendre", 12, path="reasoning").attribute(IDS, TARGET, SEGMENTS)
    close(result.tokens, loop(model, IDS, TARGET, *gauss_legendre(12), base))
    assert not result.tokens[:3].any() and not result.tokens[15:].any() and result.tokens[3:15].all()
    assert result.f_baseline == pytest.approx(answer_log_probability(model, IDS, TARGET, base).item(), rel=1e-6)
    everything = IntegratedGradients(model, "gauss_legendre", 12, path="all").attribute(IDS, TARGET, SEGMENTS)
    assert everything.tokens[:3].all() and everything.f_baseline != pytest.approx(result.f_baseline, rel=1e-3)


def baseline_vector(model, baseline):
    vectors = embed(model, range(VOCAB))[0]
    if baseline == "zero":
        return torch.zeros(16, dtype=vectors.dtype)
    if baseline == "mean":
        return vectors.mean(0)
    return vectors[{"pad": PAD, "eos": EOS}.get(baseline, int(baseline) if str(baseline).isdigit() else None)]


@pytest.mark.parametrize("baseline", ["pad", "eos", "zero", "mean", 11, "11"])
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2"])
def test_baselines_are_what_the_embedding_module_gives(architecture, baseline):
    """Gemma's module scales what it looks up, so the mean of its vectors is not the mean of its weight."""
    model = make_model(architecture, torch.float64)
    base = baseline_vector(model, baseline).expand(1, len(IDS), -1)
    result = IntegratedGradients(model, "midpoint", 6, baseline=baseline, path="all").attribute(IDS, TARGET)
    close(result.tokens, loop(model, IDS, TARGET, *midpoint(6), base))
    assert result.f_baseline == pytest.approx(answer_log_probability(model, IDS, TARGET, base).item(), rel=1e-5)


def test_first_of_several_eos_tokens_is_the_baseline():
    model = make_model()
    model.config.eos_token_id = [7, 9]
    assert resolve_baseline(model, "eos") == 7


def test_baselines_that_do_not_exist_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"Unknown baseline 'bos'. Pass one of 'pad', 'eos', 'zero', 'mean', or"):
        IntegratedGradients(model, baseline="bos", path="all")
    with pytest.raises(ValueError, match="baseline token 61 is not one of the model's 61 embeddings"):
        IntegratedGradients(model, baseline=VOCAB, path="all")
    with pytest.raises(ValueError, match="baseline token -1 is not one"):
        IntegratedGradients(model, baseline=-1, path="all")
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match=r"'pad' needs the embedding of a pad token, but .* names none.*'eos'"):
        IntegratedGradients(model, path="all")
    IntegratedGradients(model, baseline="eos", path="all")


class _Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def logged():
    """What the package logs; transformers' logger does not propagate to pytest's."""
    handler = _Records()
    logger = logging.getLogger("trl_segment.attribution.scorers")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


def test_baseline_that_was_never_trained_is_warned_of(logged):
    model = make_model()
    IntegratedGradients(model, path="all")
    assert logged == []
    with torch.no_grad():
        model.get_input_embeddings().weight[PAD] *= 1e-3
    IntegratedGradients(model, path="all")
    assert len(logged) == 1 and f"baseline token {PAD} ('pad')" in logged[0] and "never trained" in logged[0]
    logged.clear()
    IntegratedGradients(model, baseline="eos", path="all")
    IntegratedGradients(model, baseline="zero", path="all")
    assert logged == []


def test_model_is_left_as_it_was():
    model = make_model().train()
    model.model.layers[0].eval()
    frozen = [parameter for name, parameter in model.named_parameters() if "layers.1" in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    grads = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "mlp" in name:
            parameter.grad = torch.randn_like(parameter)
        grads[name] = None if parameter.grad is None else parameter.grad.clone()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    random_state = torch.get_rng_state()

    IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET, SEGMENTS)

    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == required
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert True in required.values() and False in required.values() and len(set(modes.values())) == 2
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert (parameter.grad is None) == (grads[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not model.get_input_embeddings()._forward_hooks


def test_model_is_left_as_it_was_after_an_error():
    model = make_model().train()
    engine = IntegratedGradients(model, "midpoint", 4, path="all")
    with pytest.raises(IndexError):
        engine.attribute(np.array([1, 2, VOCAB + 5, 4]), (2, 4))
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


def test_frozen_mode_freezes_inside():
    model = make_model().train()
    with frozen_mode(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_dropout_is_off():
    model = make_model("gpt2").train()
    assert model.config.resid_pdrop > 0
    first = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    second = IntegratedGradients(model.eval(), "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert np.array_equal(first.tokens, second.tokens)


def test_works_where_gradients_are_switched_off():
    model = make_model()
    expected = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    with torch.no_grad():
        result = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert np.array_equal(result.tokens, expected.tokens)


def test_only_answer_positions_get_logits():
    model = make_model()
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    IntegratedGradients(model, "midpoint", 4, max_tokens_per_forward=1, path="all").attribute(IDS, TARGET)
    assert seen == [3] * 7  # 4 nodes, F(input) twice, F(baseline)


def test_model_without_logits_to_keep_works_and_is_warned_of(logged):
    class OldModel(Qwen2ForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, use_cache=None, inputs_embeds=None):
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, use_cache=use_cache)

    model = make_model(dtype=torch.float64)
    old = OldModel(model.config).double().eval()
    old.load_state_dict(model.state_dict())
    expected = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert logged == []
    result = IntegratedGradients(old, "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert len(logged) == 1 and "OldModel computes the logits of every position" in logged[0]
    close(result.tokens, expected.tokens, 1e-6)


def test_what_follows_the_target_is_ignored():
    model = make_model()
    result = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET, SEGMENTS)
    longer = IntegratedGradients(model, "midpoint", 4, path="all").attribute(
        np.append(IDS, [7, 8, 9]), TARGET, SEGMENTS
    )
    assert np.array_equal(result.tokens, longer.tokens)
    assert result.tokens.shape == (20,) and result.tokens[-1] == 0 and result.tokens[-2] != 0


@pytest.mark.parametrize("form", [list, torch.as_tensor, lambda ids: ids.astype(np.int32)])
def test_ids_of_any_form(form):
    model = make_model()
    expected = IntegratedGradients(model, "midpoint", 3, path="all").attribute(IDS, TARGET)
    result = IntegratedGradients(model, "midpoint", 3, path="all").attribute(form(IDS), TARGET)
    assert np.array_equal(result.tokens, expected.tokens)


@pytest.mark.parametrize("target", [(0, 3), (5, 5), (6, 5), (17, 21), (-3, -1)])
def test_bad_targets_are_refused(target):
    with pytest.raises(ValueError, match=r"must be a token span with something before it.*20 tokens"):
        IntegratedGradients(make_model(), "midpoint", 2, path="all").attribute(IDS, target)


@pytest.mark.parametrize("segments", [[(-1, 3)], [(3, 21)], [(5, 4)]])
def test_bad_segments_are_refused(segments):
    with pytest.raises(ValueError, match="Segments must lie inside the 20 tokens"):
        IntegratedGradients(make_model(), "midpoint", 2, path="all").attribute(IDS, TARGET, segments)


def test_bad_settings_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"Unknown path 'prompt'. Pass one of 'all', 'reasoning'"):
        IntegratedGradients(model, path="prompt")
    with pytest.raises(ValueError, match="Unknown quadrature rule 'left'"):
        IntegratedGradients(model, rule="left", path="all")
    with pytest.raises(ValueError, match="needs at least 2"):
        IntegratedGradients(model, rule="paper", evaluations=1, path="all")
    for segments in (None, []):
        with pytest.raises(ValueError, match=r"path='reasoning' .* needs the segments"):
            IntegratedGradients(model, path="reasoning").attribute(IDS, TARGET, segments)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_not_finite(value):
    model = make_model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = value
    result = IntegratedGradients(model, "midpoint", 3, path="all").attribute(IDS, TARGET, SEGMENTS)
    assert not result.finite


def test_one_answer_token_and_one_before_it():
    model = make_model(dtype=torch.float64)
    result = IntegratedGradients(model, "midpoint", 64, path="all").attribute([7, 9], (1, 2), [(0, 1)])
    assert result.tokens.shape == (2,) and result.tokens[1] == 0
    assert result.tokens[0] == pytest.approx(result.f_input - result.f_baseline, abs=1e-2)
    assert result.segments.sum_signed[0] == result.tokens[0]


def test_empty_segments_sum_to_zero():
    result = IntegratedGradients(make_model(), "midpoint", 3, path="all").attribute(IDS, TARGET, [(2, 2), (2, 9)])
    assert (result.segments.num_tokens[0], result.segments.sum_abs[0], result.segments.sum_signed[0]) == (0, 0, 0)
    assert result.segments.sum_abs[1] > 0


def test_bfloat16_model_is_close_to_float32():
    reference = make_model(dtype=torch.bfloat16).float()  # the same, rounded weights
    expected = IntegratedGradients(reference, "midpoint", 32, path="all").attribute(IDS, TARGET, SEGMENTS)
    result = IntegratedGradients(make_model(dtype=torch.bfloat16), "midpoint", 32, path="all").attribute(
        IDS, TARGET, SEGMENTS
    )
    assert result.finite and result.tokens.dtype == np.float64
    cosine = result.tokens @ expected.tokens / np.linalg.norm(result.tokens) / np.linalg.norm(expected.tokens)
    assert cosine > 0.98
    assert result.f_input == pytest.approx(expected.f_input, abs=0.1)


def test_interpolation_is_in_float32_for_a_bfloat16_model():
    """The hook's output is the float32 interpolation rounded once, not bfloat16 arithmetic on rounded steps."""
    model = make_model(dtype=torch.bfloat16)
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    IntegratedGradients(model, "paper", 50, max_tokens_per_forward=16384, path="all").attribute(IDS, TARGET)
    fed = torch.cat([x for x in seen if len(x) > 1])
    assert fed.shape[0] == 50 and fed.dtype == torch.bfloat16
    real, base = embed(model, IDS[:-1]).float(), pad_base(model, IDS[:-1]).float()
    alpha = torch.linspace(0, 1, 50)[:, None, None]
    exact = base + alpha * (real - base)
    in_bfloat16 = base.bfloat16() + alpha.bfloat16() * (real.bfloat16() - base.bfloat16())
    # Rounded once: within half a unit of the last of 8 bits; bfloat16 arithmetic is not
    assert ((fed.float() - exact).abs() <= exact.abs() * 2**-8 + 1e-7).all()
    assert ((in_bfloat16.float() - exact).abs() > exact.abs() * 2**-8 + 1e-7).float().mean() > 0.1
    # So the sum over nodes of the steps is that of the trapezoid: no drift
    assert (fed.float().mean(0) - exact.mean(0)).abs().mean() < (
        in_bfloat16.float().mean(0) - exact.mean(0)
    ).abs().mean()


@pytest.fixture
def lora_model():
    from peft import LoraConfig, get_peft_model

    def build(**kwargs):
        model = make_model(dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft_model = get_peft_model(
                model, LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj"], **kwargs})
            )
        with torch.no_grad():
            for name, parameter in peft_model.named_parameters():
                if "lora_B" in name or "lora_embedding_A" in name:
                    parameter.normal_(std=0.5)
        return peft_model.double()

    return build


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"trainable_token_indices": [7, 8]},
    ],
    ids=["linear", "saved-head", "saved-embedding", "lora-embedding", "trainable-tokens"],
)
def test_lora_model_with_its_adapter_off_is_the_base_model(lora_model, kwargs):
    expected = IntegratedGradients(make_model(dtype=torch.float64), "midpoint", 6, path="all").attribute(
        IDS, TARGET, SEGMENTS
    )
    peft_model = lora_model(**kwargs)
    trainable = {name for name, parameter in peft_model.named_parameters() if parameter.requires_grad}
    engine = IntegratedGradients(peft_model, "midpoint", 6, path="all")
    with peft_model.disable_adapter():
        result = engine.attribute(IDS, TARGET, SEGMENTS)
    close(result.tokens, expected.tokens, 1e-6)
    assert result.f_input == pytest.approx(expected.f_input, rel=1e-6)
    assert {name for name, parameter in peft_model.named_parameters() if parameter.requires_grad} == trainable
    if "modules_to_save" not in kwargs and "trainable_token_indices" not in kwargs:
        adapted = engine.attribute(IDS, TARGET, SEGMENTS)
        assert np.abs(adapted.tokens - expected.tokens).max() > 1e-2 * np.abs(expected.tokens).max()


def test_only_answer_positions_get_logits_under_peft(lora_model):
    peft_model = lora_model()
    seen = []
    peft_model.base_model.model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    IntegratedGradients(peft_model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert set(seen) == {3}


def test_gradient_checkpointing_changes_nothing():
    expected = IntegratedGradients(make_model(), "midpoint", 4, path="all").attribute(IDS, TARGET)
    model = make_model().train()
    model.gradient_checkpointing_enable()
    result = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert np.array_equal(result.tokens, expected.tokens)


def test_embeddings_that_peft_makes_trainable_are_overridden():
    """`enable_input_require_grads` hooks the embedding too; the engine's hook comes after it."""
    expected = IntegratedGradients(make_model(), "midpoint", 4, path="all").attribute(IDS, TARGET)
    model = make_model()
    model.enable_input_require_grads()
    result = IntegratedGradients(model, "midpoint", 4, path="all").attribute(IDS, TARGET)
    assert np.array_equal(result.tokens, expected.tokens)


def test_tiny_model_of_the_helpers_has_something_to_attribute():
    tokenizer = tiny_tokenizer()
    ids = np.array(tokenizer("3 + 4 is 7.\n\nWait, let me check: 7.")["input_ids"])
    result = IntegratedGradients(tiny_model(tokenizer), "midpoint", 8, path="all").attribute(
        ids, (len(ids) - 2, len(ids))
    )
    assert result.finite and np.abs(result.tokens).sum() > 1e-2
