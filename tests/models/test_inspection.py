"""What models are told apart by."""

import copy
import warnings

import pytest
import torch

from trl_segment.attribution import AttributionConfig, attribution_settings, planned_settings
from trl_segment.models import inspection, unwrap_adapter, weights_fingerprint
from trl_segment.models.inspection import adapter_fingerprint


CONFIG = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=2)


def adapted(model, seed=0, **options):
    """A copy of the model with a LoRA adapter, random in all of its parts."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        options = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, **options}
        return get_peft_model(copy.deepcopy(model), LoraConfig(**options))


def test_one_changed_value_of_one_row_is_noticed(model):
    base = weights_fingerprint(model)
    table = model.get_input_embeddings().weight
    assert len(table) > 300
    for row in (0, 1, 17, len(table) // 2, len(table) - 1):
        for column in (0, table.shape[1] - 1):
            before = table[row, column].item()
            with torch.no_grad():
                table[row, column] += 2**-10
            assert weights_fingerprint(model) != base, (row, column)
            with torch.no_grad():
                table[row, column] = before
    assert weights_fingerprint(model) == base
    # Two rows in each other's place
    with torch.no_grad():
        table[[3, 300]] = table[[300, 3]]
    assert weights_fingerprint(model) != base


def test_the_pieces_that_are_hashed_do_not_show(model, monkeypatch):
    base = weights_fingerprint(model)
    monkeypatch.setattr(inspection, "_HASHED_AT_A_TIME", 7)
    assert weights_fingerprint(model) == base


def test_names_and_shapes_count(model):
    base = weights_fingerprint(model)
    layer = model.model.layers[0].self_attn
    other = copy.deepcopy(model)
    other.model.layers[0].self_attn.extra = torch.nn.Parameter(torch.empty(0))
    assert weights_fingerprint(other) != base
    assert layer.k_proj.weight.shape == layer.v_proj.weight.shape
    layer.k_proj, layer.v_proj = layer.v_proj, layer.k_proj
    assert weights_fingerprint(model) != base


def test_a_precision_that_loses_nothing_does_not_count(model):
    """It has a setting of its own."""
    rounded = copy.deepcopy(model).bfloat16()
    assert weights_fingerprint(rounded) == weights_fingerprint(copy.deepcopy(rounded).float())
    assert weights_fingerprint(rounded) != weights_fingerprint(model)


def test_adapters_are_told_apart(model):
    pytest.importorskip("peft")
    assert adapter_fingerprint(model) == "off"
    one, same, other = adapted(model), adapted(model), adapted(model, seed=1)
    found = adapter_fingerprint(one)
    assert len(found) == 16 and int(found, 16) >= 0
    assert adapter_fingerprint(same) == found != adapter_fingerprint(other)
    assert adapter_fingerprint(adapted(model, r=3)) != found
    # Each of base model and adapter without a part in the other's hash
    assert weights_fingerprint(one) == weights_fingerprint(other) == weights_fingerprint(model)
    with torch.no_grad():
        unwrap_adapter(one).model.norm.weight[0] += 1
    assert adapter_fingerprint(one) == found and weights_fingerprint(one) != weights_fingerprint(model)
    with torch.no_grad():
        next(p for name, p in same.named_parameters() if "lora_B" in name)[0, 0] += 1
    assert adapter_fingerprint(same) != found and weights_fingerprint(same) == weights_fingerprint(model)


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"trainable_token_indices": [7, 8]},
        {"use_dora": True},
    ],
    ids=["saved-head", "lora-embedding", "trainable-tokens", "dora"],
)
def test_every_trained_part_of_an_adapter_counts(model, options):
    pytest.importorskip("peft")
    peft_model = adapted(model, **options)
    base, found = weights_fingerprint(peft_model), adapter_fingerprint(peft_model)
    assert base == weights_fingerprint(model)
    trained = [(name, p) for name, p in peft_model.named_parameters() if p.requires_grad]
    assert len(trained) > 2
    for name, parameter in trained:
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
        assert adapter_fingerprint(peft_model) != found, name
        assert weights_fingerprint(peft_model) == base, name
        with torch.no_grad():
            parameter.copy_(before)
    assert adapter_fingerprint(peft_model) == found


def test_virtual_tokens_are_an_adapter(model):
    """They stand beside the base model, not in it."""
    pytest.importorskip("peft")
    from peft import PromptTuningConfig, get_peft_model

    peft_model = get_peft_model(copy.deepcopy(model), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    found = adapter_fingerprint(peft_model)
    assert found != "off" and weights_fingerprint(peft_model) == weights_fingerprint(model)
    with torch.no_grad():
        next(p for p in peft_model.parameters() if p.requires_grad)[0, 0] += 1
    assert adapter_fingerprint(peft_model) != found


def test_settings_know_which_adapter_was_on(model, tokenizer):
    pytest.importorskip("peft")
    plain = attribution_settings(model, tokenizer, CONFIG)
    one, other = (attribution_settings(adapted(model, seed), tokenizer, CONFIG) for seed in (0, 1))
    off = attribution_settings(adapted(model), tokenizer, CONFIG, adapter=False)
    assert plain.adapter == "off" and off == plain
    for found, wanted in ((plain.differences(one), "off"), (one.differences(other), one.adapter)):
        assert (
            len(found) == 1 and found[0].startswith("adapter of the attribution model (hash)") and wanted in found[0]
        )


def test_what_is_planned_knows_no_weights_and_agrees_for_the_rest(model, tokenizer):
    """A dry run compares a store with what would be made, before a weight is loaded."""
    made = attribution_settings(model, tokenizer, CONFIG)
    planned = planned_settings(model.config, tokenizer, CONFIG)
    assert (planned.weights, planned.dtype, planned.adapter) == (None, None, None)
    assert made.differences(planned) == planned.differences(made) == []
    other = planned_settings(model.config, tokenizer, AttributionConfig(attribution_rule="paper"))
    assert [line.split(":")[0] for line in made.differences(other)] == ["attribution_evaluations", "attribution_rule"]
