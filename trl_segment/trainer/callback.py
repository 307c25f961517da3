"""The callback that has the attributions at hand before the first step."""

import contextlib
import os
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType, is_peft_model
from transformers import TrainerCallback
from transformers.utils import logging

from ..attribution import AttributionStore, attribute_traces, attribution_settings


if TYPE_CHECKING:
    from .sft_trainer import SegmentSelectiveSFTTrainer


logger = logging.get_logger(__name__)


class SegmentAttributionCallback(TrainerCallback):
    """
    When training begins: read the attributions of the training set, or compute and store them, and select segments.

    The model is attributed as it is before the first step, unwrapped and with its adapter off, so a LoRA run uses its
    base model. A resumed run reads what the first run stored and never attributes with half-trained weights.

    Args:
        trainer ([`SegmentSelectiveSFTTrainer`]):
            The trainer that it belongs to; it adds the callback itself.
    """

    def __init__(self, trainer: "SegmentSelectiveSFTTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if args.attributions is not None:
            store = AttributionStore(args.attributions)
        elif state.global_step > 0:
            store = self._stored_by_first_run(args, state)
        else:
            store = self._attribute(args)
        self.trainer.select_segments(store)

    def _stored_by_first_run(self, args, state):
        path = os.path.join(args.output_dir, "attributions")
        try:
            return AttributionStore(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Training resumes at step {state.global_step}, but the attributions of the first run are not at "
                f"{path!r}. They cannot be made again from half-trained weights. Restore that folder, or make the "
                "attributions from the initial model with `trl-segment attribute` and pass them as `attributions`."
            ) from error

    def _attribute(self, args):
        accelerator = self.trainer.accelerator
        if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
            raise NotImplementedError(
                f"Attribution inside a {accelerator.distributed_type.value} run is not supported yet. Make the "
                "attributions first with `trl-segment attribute` and pass their folder as `attributions`."
            )
        if args.attribution_rule == "density" and accelerator.num_processes > 1:
            raise NotImplementedError(
                "The rule 'density' learns from the first traces of one process, but this run has "
                f"{accelerator.num_processes}. Use another rule, or make the attributions first with `trl-segment "
                "attribute`."
            )
        model = accelerator.unwrap_model(self.trainer.model)
        tokenizer = self.trainer.processing_class
        settings = attribution_settings(model, tokenizer, args, autocast=accelerator.mixed_precision)
        if self.trainer.segmenter is not None:
            settings["segmenter"] = getattr(self.trainer.segmenter, "__qualname__", repr(self.trainer.segmenter))
        store = AttributionStore(os.path.join(args.output_dir, "attributions"), settings)
        mine = range(accelerator.process_index, self.trainer.num_traces, accelerator.num_processes)
        traces = (self.trainer.get_trace(index) for index in mine)
        adapter_off = model.disable_adapter() if is_peft_model(model) else contextlib.nullcontext()
        with adapter_off:
            attribute_traces(
                traces, model, tokenizer, args, store, total=len(mine), progress=accelerator.is_local_main_process
            )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            store = AttributionStore(store.path, settings)
            store.compact()
        accelerator.wait_for_everyone()
        return AttributionStore(store.path, settings)
