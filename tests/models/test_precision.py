"""Attribution in another precision than the model's: the weights come back as they were, and stores know."""

import json

import pytest
import torch
from datasets import Dataset
from helpers import make_rows, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from trl_segment.cli import main as cli
from trl_segment.models.precision import check_tf32, in_precision, precision_of
from trl_segment.store import AttributionStore


def weights(model):
    return {name: (tensor.dtype, tensor.clone()) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", ["float32", "bfloat16", "float16"])
def test_weights_are_afterwards_as_before(own, other):
    model = tiny_model(tiny_tokenizer()).to(own).eval()
    before = weights(model)
    with in_precision(model, other):
        assert model.dtype == getattr(torch, other) and precision_of(model) == other
        assert model(torch.arange(3, 9)[None]).logits.dtype == getattr(torch, other)
    for name, (dtype, tensor) in weights(model).items():
        assert dtype == before[name][0] and torch.equal(tensor, before[name][1])


def test_an_error_inside_brings_them_back_too():
    model = tiny_model(tiny_tokenizer())
    with pytest.raises(KeyError), in_precision(model, "bfloat16"):
        raise KeyError
    assert model.dtype == torch.float32


def test_a_weight_that_float16_cannot_hold_is_named():
    model = tiny_model(tiny_tokenizer())
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight.*float16"), in_precision(model, "float16"):
        pass
    assert model.model.layers[1].mlp.up_proj.weight[0, 0] == 1e5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there may be TF32")
def test_tf32_is_refused_where_there_is_none(refused, tmp_path):
    with pytest.raises(ValueError, match="Ampere"):
        check_tf32()
    with pytest.raises(ValueError, match="Ampere"), in_precision(tiny_model(tiny_tokenizer()), "tf32"):
        pass


def test_unknown_precisions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fp8"):
        SegmentSelectiveSFTConfig(output_dir=str(tmp_path), attribution_dtype="fp8")


@pytest.mark.parametrize("mixed", [False, True])
def test_a_trainer_attributes_as_the_command_does_in_that_precision(tmp_path, mixed):
    """A bf16 model, or bf16 autocast over float32 weights, attributed in float32: the store of the command fits."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    if not mixed:
        model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    # Casting a model by hand would round its rotary frequencies too
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    rows = make_rows(3)
    (tmp_path / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rule = {"attribution_rule": "midpoint", "attribution_evaluations": 4}
    cli.main(
        f"attribute --model_name_or_path {tmp_path / 'model'} --dataset_name {tmp_path / 'traces.jsonl'} --dtype "
        f"float32 --attributions {tmp_path / 'store'} --attribution_rule midpoint --attribution_evaluations 4".split()
    )
    args = SegmentSelectiveSFTConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, max_length=None, report_to="none", bf16=mixed, use_cpu=True,
        attribution_dtype="float32", gradient_checkpointing=False, save_strategy="no", **rule,
    )  # fmt: skip
    before = weights(model)
    trainer = SegmentSelectiveSFTTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.args.learning_rate = 0.0
    trainer.train()
    by_command, by_trainer = (AttributionStore(tmp_path / name) for name in ("store", "run/_attributions"))
    assert by_command.settings.differences(by_trainer.settings) == []
    for row in by_command.values():
        assert by_trainer[row.key].sum_signed == pytest.approx(row.sum_signed, rel=1e-4, abs=1e-7)
    assert all(dtype == before[name][0] for name, (dtype, _) in weights(trainer.model).items())
