"""What `trainer/_trl_compat.py` relies on, entry by entry: when TRL moves, the failing test says which."""

import inspect

import pytest
import torch
from accelerate import Accelerator
from grpo_rows import make_plain
from helpers import make_rows, tiny_model
from test_trainer import make_trainer, messages
from transformers import PretrainedConfig
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_segment.trainer import _trl_compat as compat


def test_main_process_first_is_a_context_that_nests():
    with compat.main_process_first(), compat.main_process_first():
        pass


def test_model_id_reads_what_the_model_was_loaded_from():
    config = PretrainedConfig()
    config._name_or_path = "org/name"
    assert compat.model_id(config) == "org/name"


def test_arguments_behind_compute_loss_func_keep_their_places():
    names = compat.arguments_by_position((1, 2, 3, 4))
    assert list(names) == ["compute_metrics", "callbacks", "optimizers", "optimizer_cls_and_kwargs"]


def test_the_parent_prepares_datasets_with_the_arguments_that_ours_passes_on():
    parameters = list(inspect.signature(SFTTrainer._prepare_dataset).parameters)
    assert parameters == [
        *("self", "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
    ]


def test_the_parent_prepares_the_training_set_first_and_under_the_name_train(tmp_path, tokenizer, monkeypatch):
    names = []
    prepare = SFTTrainer._prepare_dataset

    def noting(self, *args):
        names.append(args[-1])
        return prepare(self, *args)

    monkeypatch.setattr(SFTTrainer, "_prepare_dataset", noting)
    rows = messages(make_rows(2))
    trainer = make_trainer(tmp_path, tokenizer, rows, SFTTrainer, eval_dataset={"train": rows, "b": rows})
    assert names == ["train", "train", "b"]
    assert set(compat.PREPARED_COLUMNS) <= set(trainer.train_dataset.column_names)


def test_outputs_of_the_fused_head_have_log_probabilities_and_their_mask(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, messages(make_rows(2)), SFTTrainer)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        outputs = trainer.model(**batch, fused_lm_head=True)
    assert {compat.LOG_PROBS, compat.LABEL_MASK} <= set(outputs)
    # One behind the other, without the first token, zero where there is no label
    labels = batch["labels"][:, 1:]
    assert outputs[compat.LOG_PROBS].shape == labels.shape
    assert torch.equal(outputs[compat.LABEL_MASK].bool(), labels != -100)
    logits = trainer.model(**{**batch, "labels": None}).logits[:, :-1]
    expected = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
    assert torch.allclose(outputs[compat.LOG_PROBS], expected, atol=1e-5)


def test_columns_metrics_and_template_are_where_they_are_looked_for(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, messages(make_rows(2)), SFTTrainer)
    trainer._set_signature_columns_if_needed()
    compat.signature_columns(trainer, "own", "own")
    assert trainer._signature_columns.count("own") == 1
    compat.record_metric(trainer, "train", "own", 0.5)
    logged = {}
    trainer.model.train()
    trainer.log(logged)
    assert logged["own"] == 0.5
    assert compat.prepared_chat_template(trainer) is None or isinstance(compat.prepared_chat_template(trainer), str)


def test_the_collator_takes_labels_as_they_are():
    batch = DataCollatorForLanguageModeling(pad_token_id=0)([{"input_ids": [5, 6], "labels": [-100, 6]}])
    assert batch["labels"].tolist() == [[-100, 6]]


def test_no_parallelism_over_one_trace_without_being_asked():
    assert compat.parallel_over_one_trace(Accelerator(cpu=True)) is False


@pytest.mark.parametrize("count", [None, 7])
def test_items_are_counted_by_the_parent_without_weights(count):
    assert compat.count_items(None, [{"labels": torch.ones(1, 2)}], None, lambda *_: count, None) == count


@pytest.mark.parametrize(
    "name", ["_get_num_items_in_batch", "_set_signature_columns_if_needed", "create_model_card", "get_tp_size"]
)
def test_methods_that_are_overridden_or_called_exist(name):
    assert callable(getattr(SFTTrainer, name))


@pytest.mark.parametrize("name", ["_tag_names", "_name", "_paper"])
def test_what_shapes_the_model_card_exists(name):
    assert hasattr(SFTTrainer, name)


def test_grpo_makes_a_generation_batch_of_what_ours_reads(tmp_path, tokenizer):
    """Padded tokens and their masks, one advantage a row, and a method of this name that makes them."""
    trainer = make_plain(tmp_path, tiny_model(tokenizer), tokenizer, make_rows(2))
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == ["self", "inputs"]
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    rows = len(batch["completion_ids"])
    for name in ("prompt", "completion"):
        assert batch[f"{name}_ids"].shape == batch[f"{name}_mask"].shape and batch[f"{name}_ids"].ndim == 2
    assert batch["advantages"].shape == (rows,)
    # Prompts are padded on the left, completions on the right
    assert batch["prompt_mask"][:, -1].all() and batch["completion_mask"][:, 0].all()
    assert compat.text_tokenizer(trainer) is tokenizer
    assert compat.end_tokens(trainer) == {tokenizer.eos_token_id, tokenizer.pad_token_id}
    compat.record_metric(trainer, "train", "own", 0.5)
    logged = {}
    trainer.model.train()
    trainer.log(logged)
    assert logged["own"] == 0.5
