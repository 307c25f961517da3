"""
The one place for everything inside TRL, transformers and accelerate that this package touches unpromised.

Each entry says what it is for. `tests/trainer/test_trl_compat.py` names the entry that broke when one of them moves.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from accelerate import Accelerator
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.utils import get_config_model_id, global_then_local_main_first


# TRL renames models by this when it makes an `output_dir` of their name, and in model cards
__all__ = [
    "LOG_PROBS",
    "PREPARED_COLUMNS",
    "arguments_by_position",
    "end_tokens",
    "main_process_first",
    "model_id",
    "parallel_over_one_trace",
    "prepared_chat_template",
    "record_metric",
    "signature_columns",
    "text_tokenizer",
    "without_autocast",
]

# Columns that TRL's preparation leaves in a dataset that is packed; ours is added to them
PREPARED_COLUMNS = ("input_ids", "labels")

# Entries of the fused LM head's output: log-probability of each label, and which positions have one. `compute_loss`
# sums the first, so that scaling it weighs the loss token by token.
LOG_PROBS, LABEL_MASK = "log_probs", "label_mask"


def main_process_first() -> AbstractContextManager:
    """
    The order in which TRL lets processes prepare a dataset: one works, the others read its cache.

    It nests: a main process that leaves an inner context lets the others into the outer one, in step.
    """
    return global_then_local_main_first()


def model_id(config: PretrainedConfig) -> str:
    """Name or folder that a model was loaded from, as TRL writes it into `output_dir` and cards."""
    return get_config_model_id(config)


def arguments_by_position(values: tuple[Any, ...]) -> dict[str, Any]:
    """
    Arguments of [`~trl.SFTTrainer`] that were passed by position behind `compute_loss_func`, by name.

    Our constructor spells out the parent's arguments up to that one; scripts that pass more by position must keep
    working whatever TRL adds behind.
    """
    names = list(inspect.signature(SFTTrainer.__init__).parameters)
    return dict(zip(names[names.index("compute_loss_func") + 1 :], values, strict=False))


def prepared_chat_template(trainer: SFTTrainer) -> str | None:
    """The template that TRL renders conversations with, where it is not the tokenizer's own."""
    return trainer.chat_template


def signature_columns(trainer: SFTTrainer, *columns: str) -> None:
    """Let columns through to the collator: `Trainer` drops those that the model's forward does not name."""
    for column in columns:
        if column not in trainer._signature_columns:
            trainer._signature_columns.append(column)


def record_metric(trainer: SFTTrainer | GRPOTrainer, mode: str, name: str, value: float) -> None:
    """Add a value to a metric that the trainer's `log` averages until the next line of the log."""
    trainer._metrics[mode][name].append(value)


def text_tokenizer(trainer: GRPOTrainer) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a trainer of text; `None` where it trains a model that sees images."""
    return None if trainer._is_vlm else trainer._tokenizer


def end_tokens(trainer: GRPOTrainer) -> set[int]:
    """Tokens that end a completion: one that ends in none of them was cut off."""
    return {*trainer.eos_token_ids, trainer._tokenizer.pad_token_id}


def parallel_over_one_trace(accelerator: Accelerator) -> bool:
    """Whether processes share the work on one row (tensor, context or sequence parallelism)."""
    parallelism = accelerator.parallelism_config
    return parallelism is not None and parallelism.non_data_parallel_size > 1


@contextmanager
def without_autocast(model: PreTrainedModel) -> Iterator[None]:
    """
    Let a model run outside of the mixed precision of its run.

    Accelerate wraps `forward` and keeps the model's own beside it; unwrapping would be for good.
    """
    wrapped = model.__dict__.get("forward")
    own = getattr(model, "_original_forward", None)
    if wrapped is None or own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = wrapped


def count_items(trainer: SFTTrainer, batches: list[dict], device, parent: Callable, weigh: Callable) -> Any:
    """
    What `Trainer` divides the loss of a step by, with weights in place of ones.

    `Trainer._get_num_items_in_batch` counts labels, gathers over processes and divides by the copies that tensor
    parallelism makes of a batch; this does the same with sums of weights.
    """
    count = parent(batches, device)
    if count is None or "loss_weights" not in batches[0]:
        return count
    total = sum(weigh(batch["loss_weights"], batch["labels"]) for batch in batches).to(device)
    if trainer.args.average_tokens_across_devices and trainer.args.world_size > 1:
        total = trainer.accelerator.gather(total).sum() / trainer.get_tp_size()
    return total
