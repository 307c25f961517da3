"""Models that read of a token more than its embedding: found by one pass, whatever the second way in is called."""

import math

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from trl_segment.attribution import SCORERS, AttributionConfig, BackwardSweep, IntegratedGradients


COMMON = {
    "vocab_size": 97,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
PER_LAYER = {
    **COMMON,
    "head_dim": 8,
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 64,
}
GEMMA3N = {
    **PER_LAYER,
    "intermediate_size": [48] * 4,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0] * 4,
}
BESIDE = {
    "gemma3n": ("Gemma3nTextConfig", GEMMA3N),
    "gemma4": ("Gemma4TextConfig", {**PER_LAYER, "global_head_dim": 8}),
    "deepseek_v4": ("DeepseekV4Config", {**COMMON, "num_hidden_layers": 2}),
}
IDS = np.random.default_rng(0).integers(4, 97, 24)
TARGET, SEGMENTS = (21, 24), [(3, 9), (9, 12), (12, 20)]
# All that put other embeddings in the place of the tokens' own
MOVING = [name for name, scorer in SCORERS.items() if scorer.token_attributions]


def make_model(name, settings, dtype=torch.float32):
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, name)(**settings)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=0.2)
                elif "scale" in parameter_name:
                    parameter.fill_(1.0)  # zero at initialization, not in a trained model
            for buffer_name, buffer in model.named_buffers():
                if "tid2eid" in buffer_name:  # which experts a token ID has
                    buffer.copy_(torch.randint(0, config.n_routed_experts, buffer.shape))
    return model


def llama():
    return make_model("LlamaConfig", {**COMMON, "num_hidden_layers": 2})


def make_scorer(name, model, baseline="11"):
    options = {"attribution_evaluations": 8} if name == "integrated_gradients" else {}
    config = AttributionConfig(attribution_scorer=name, attribution_baseline=baseline, **options)
    return SCORERS[name].from_config(model, config)


def attribute(scorer):
    return scorer.attribute(IDS, TARGET, SEGMENTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", BESIDE)
def test_a_second_way_in_for_tokens_is_refused(name, dtype):
    model = make_model(*BESIDE[name], dtype)
    for scorer in MOVING:
        with pytest.raises(ValueError, match="reads token IDs beside its embeddings"):
            attribute(make_scorer(scorer, model))


@pytest.mark.parametrize("baseline", ["pad", "mean", "zero"])
def test_whatever_the_baseline_is(baseline):
    with pytest.raises(ValueError, match="beside its embeddings"):
        attribute(make_scorer("integrated_gradients", make_model(*BESIDE["gemma4"]), baseline))


def test_what_nobody_has_named_yet_is_found_too():
    """A model whose first layer adds a little that depends on the token before."""
    model = llama()
    table = torch.nn.Embedding(97, 32).requires_grad_(False)
    table.weight.mul_(1e-2)
    seen = {}
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(ids=kwargs["input_ids"]), with_kwargs=True
    )
    model.model.layers[0].register_forward_pre_hook(lambda module, args: (args[0] + table(seen["ids"].roll(1)),))
    with pytest.raises(ValueError, match="LlamaForCausalLM reads token IDs beside its embeddings"):
        attribute(make_scorer("integrated_gradients", model))


def test_it_costs_one_pass_on_the_first_sequence_and_none_after_it():
    model, passes = llama(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    engine = IntegratedGradients(model, rule="midpoint", evaluations=8, baseline=11)
    counts = []
    for _ in range(3):
        passes.clear()
        attribute(engine)
        counts.append(len(passes))
    assert counts[0] == counts[1] + 1 and counts[1] == counts[2]


def test_a_sequence_that_cannot_tell_leaves_the_question_to_the_next():
    scorer = make_scorer("gradient_x_input", make_model(*BESIDE["gemma4"]))
    scorer.attribute(np.full(24, 7), TARGET, SEGMENTS)
    with pytest.raises(ValueError, match="beside its embeddings"):
        attribute(scorer)


def test_passes_that_never_repeat_to_the_bit_are_no_second_way_in():
    """Sums in an order of their own each time, as atomic additions on a GPU make them."""
    model, generator = llama(), torch.Generator().manual_seed(0)
    model.lm_head.register_forward_hook(
        lambda module, args, output: output + 1e-2 * torch.randn(output.shape, generator=generator)
    )
    result = attribute(make_scorer("integrated_gradients", model))
    assert math.isfinite(result.f_input)


def test_a_sweep_says_that_it_cannot_cut_another_kind_of_memory():
    """The way out that the refusal above names is none for such a model."""
    with pytest.raises(ValueError, match="DeepseekV4ForCausalLM remembers more"):
        attribute(BackwardSweep(make_model(*BESIDE["deepseek_v4"])))
