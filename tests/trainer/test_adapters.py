"""Adapters, quantised models and optimizers: trained as SFTTrainer does, attributed with the base model."""

import math

import numpy as np
import pytest
import torch
from helpers import make_rows, tiny_model, tiny_tokenizer
from test_compatibility import EVERY, assert_same_training
from test_trainer import curve, make_trainer, messages
from trl import SFTTrainer

from trl_segment import SegmentSelectiveSFTTrainer
from trl_segment.store import AttributionStore
from trl_segment.trainer.callback import STORE_FOLDER


peft = pytest.importorskip("peft")

ADAPTERS = {
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "new_tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [0, 2, 40]},
}


def adapter(**options):
    """Its weights are random, so that it matters whether it is on; the seed of a trainer that is built makes them."""
    return peft.LoraConfig(**{"r": 4, "init_lora_weights": False, **options})


def scores(folder):
    store = AttributionStore(folder / STORE_FOLDER)
    return {key: store[key].sum_signed for key in store}


@pytest.fixture(scope="module")
def base_scores(tmp_path_factory):
    """Of four rows with the model that the adapters are put on."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), tiny_tokenizer()
    make_trainer(folder, tokenizer, messages(make_rows(4)), max_steps=1).train()
    return scores(folder)


def close(expected):
    return {key: pytest.approx(value, rel=1e-5, abs=1e-8) for key, value in expected.items()}


def seeded(cls, folder, tokenizer, dataset, options, **kwargs):
    model = tiny_model(tokenizer)
    # PEFT draws the adapter before the trainer seeds the generators
    torch.manual_seed(0)
    return make_trainer(folder, tokenizer, dataset, cls, model=model, peft_config=adapter(**options), **kwargs)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_train_as_in_sfttrainer_and_are_off_in_attribution(name, base_scores, tmp_path, tokenizer):
    dataset, options, more = messages(make_rows(4)), ADAPTERS[name], {"learning_rate": 1e-3, "max_steps": 10}
    theirs = seeded(SFTTrainer, tmp_path / "a", tokenizer, dataset, options, **more)
    expected = curve(theirs)
    more["keep_first"] = EVERY
    ours = seeded(SegmentSelectiveSFTTrainer, tmp_path / "b", tokenizer, dataset, options, **more)
    assert curve(ours) == expected
    trained = [{n for n, p in trainer.model.named_parameters() if p.requires_grad} for trainer in (theirs, ours)]
    assert trained[0] == trained[1] != set()
    assert scores(tmp_path / "b") == close(base_scores)

    ours.save_model(str(tmp_path / "saved"))
    loaded = peft.PeftModel.from_pretrained(tiny_model(tokenizer), tmp_path / "saved")
    ids = torch.tensor([[0, 2, 40, 7]])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, ours.model.eval()(ids).logits, atol=1e-6)


def test_an_adapter_goes_on_being_trained(base_scores, tmp_path, tokenizer):
    """A PeftModel as `model`, with the adapter of an earlier run in it."""
    torch.manual_seed(1)
    peft.get_peft_model(tiny_model(tokenizer), adapter(target_modules=["q_proj"])).save_pretrained(tmp_path / "old")

    def resumed(tokenizer):
        return peft.PeftModel.from_pretrained(tiny_model(tokenizer), tmp_path / "old", is_trainable=True)

    dataset = messages(make_rows(4))
    _, ours = assert_same_training(tmp_path, tokenizer, dataset, make_model=resumed, learning_rate=1e-3)
    assert scores(tmp_path / "all") == close(base_scores)
    before, after = resumed(tokenizer).state_dict(), ours.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("lora_" in name for name in changed)


OTHER_METHODS = {
    "PromptTuningConfig": {"num_virtual_tokens": 3},
    "IA3Config": {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
}


def other_method(cls, name, folder, tokenizer, **options):
    model = tiny_model(tokenizer)
    torch.manual_seed(0)
    config = getattr(peft, name)(task_type="CAUSAL_LM", **OTHER_METHODS[name])
    return make_trainer(folder, tokenizer, messages(make_rows(4)), cls, model, peft_config=config, **options)


@pytest.mark.parametrize("name", OTHER_METHODS)
def test_other_methods_of_peft(name, base_scores, tmp_path, tokenizer):
    """Virtual tokens stand in front of the sequence, and labels must not shift against them."""
    expected = curve(other_method(SFTTrainer, name, tmp_path / "sft", tokenizer))
    ours = other_method(SegmentSelectiveSFTTrainer, name, tmp_path / "all", tokenizer, keep_first=EVERY)
    assert curve(ours) == expected
    assert scores(tmp_path / "all") == close(base_scores)


def test_down_weighting_behind_virtual_tokens(tmp_path, tokenizer):
    options = {"dropped_segments": "weight", "dropped_weight": 1.0, "max_steps": 1}
    ours = other_method(SegmentSelectiveSFTTrainer, "PromptTuningConfig", tmp_path / "a", tokenizer, **options)
    (found,) = curve(ours)
    (wanted,) = curve(other_method(SFTTrainer, "PromptTuningConfig", tmp_path / "b", tokenizer, max_steps=1))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_an_adapter_on_the_head_is_refused_as_by_trl(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="`lm_head` is not supported"):
        make_trainer(
            tmp_path, tokenizer, messages(make_rows(2)), peft_config=adapter(target_modules=["q_proj", "lm_head"])
        )


QUANTISED = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_model_is_attributed_and_trained(name, tmp_path, tokenizer):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # a block of 4-bit weights is 64 numbers
    tiny_model(tokenizer, hidden_size=64).save_pretrained(tmp_path / "model")
    dataset = messages(make_rows(4))

    def quantised(cls, folder, **options):
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", quantization_config=BitsAndBytesConfig(**QUANTISED[name]), dtype=torch.float32
        )
        torch.manual_seed(0)
        config = adapter(target_modules=["q_proj", "down_proj"])
        return make_trainer(folder, tokenizer, dataset, cls, model, peft_config=config, max_steps=10, **options)

    expected = curve(quantised(SFTTrainer, tmp_path / "sft"))
    ours = quantised(SegmentSelectiveSFTTrainer, tmp_path / "all", keep_first=EVERY)
    assert curve(ours) == expected
    assert all(math.isfinite(number) for step in expected for number in step)
    assert any(type(module).__name__ in ("Linear4bit", "Linear8bitLt") for module in ours.model.modules())

    # close to what the weights give before they are rounded
    exact = make_trainer(
        tmp_path / "exact", tokenizer, dataset, model=tiny_model(tokenizer, hidden_size=64), max_steps=1
    )
    exact.train()
    wanted, found = scores(tmp_path / "exact"), scores(tmp_path / "all")
    for key in wanted:
        assert np.isfinite(found[key]).all()
        assert np.any(found[key])
    ours.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    a, b = (np.concatenate([scores_[key] for key in wanted]) for scores_ in (wanted, found))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert cosine > (0.99 if name == "int8" else 0.5)


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_eight_bit_adam(optim, tmp_path, tokenizer):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    _, ours = assert_same_training(tmp_path, tokenizer, messages(make_rows(4)), optim=optim)
    assert isinstance(ours.optimizer.optimizer, bitsandbytes.optim.AdamW)
