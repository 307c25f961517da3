"""The callback that has the attributions at hand before the first step."""

import contextlib
import gc
import os
import shutil
from typing import TYPE_CHECKING

import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback
from transformers.utils import logging

from ..attribution import AttributionStore, attribute_traces, attribution_settings
from ..attribution.hub import open_store
from ..attribution.loading import load_attribution_model, name_pad_token
from ..attribution.runner import describe_balance, share_of_rows
from ..attribution.store import exclusive_run


if TYPE_CHECKING:
    from .sft_trainer import SegmentSelectiveSFTTrainer


logger = logging.get_logger(__name__)

# The underscore keeps it out of `push_to_hub`: names of traces and scores are not the model
STORE_FOLDER = "_attributions"


class SegmentAttributionCallback(TrainerCallback):
    """
    When training begins: read the attributions of the training set, or compute and store them, and select segments.

    The model is attributed as it is before the first step, unwrapped and with its adapter off, so a LoRA run uses its
    base model; or another model is loaded for it. A resumed run reads what the first run stored and never attributes
    with half-trained weights, unless `reattribute_every_epochs` asks for the model as it becomes.

    Args:
        trainer ([`SegmentSelectiveSFTTrainer`]):
            The trainer that it belongs to; it adds the callback itself.
    """

    def __init__(self, trainer: "SegmentSelectiveSFTTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if args.attributions is not None:
            store = open_store(args.attributions)
        elif state.global_step > 0:
            store = self._stored_by_first_run(args, state)
        else:
            store = self._attribute(args)
        self.trainer.select_segments(store)

    def _stored_by_first_run(self, args, state):
        path = os.path.join(args.output_dir, STORE_FOLDER)
        try:
            return AttributionStore(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Training resumes at step {state.global_step}, but the attributions of the first run are not at "
                f"{path!r}. They cannot be made again from half-trained weights. Restore that folder, or make the "
                "attributions from the initial model with `trl-segment attribute` and pass them as `attributions`."
            ) from error

    def on_epoch_begin(self, args, state, control, **kwargs):
        every, epoch = args.reattribute_every_epochs, round(state.epoch or 0)
        if every is None or epoch == 0 or epoch % every:
            return
        # With the model as it has become, adapter included; a resumed run finds what was stored
        path = os.path.join(args.output_dir, STORE_FOLDER, f"epoch-{epoch}")
        if os.path.exists(os.path.join(path, "complete")):
            store = AttributionStore(path)
        else:
            # One process removes what is left, before any writes: another would take away what the first has begun
            if self.trainer.accelerator.is_main_process:
                shutil.rmtree(path, ignore_errors=True)
            self.trainer.accelerator.wait_for_everyone()
            store = self._attribute_with(args, path, self.trainer.model, self.trainer.processing_class, adapter=True)
            with open(os.path.join(path, "complete"), "w"):
                pass
        self.trainer.select_segments(store)

    def _attribute(self, args):
        path = os.path.join(args.output_dir, STORE_FOLDER)
        if self.trainer.attribution_model is not None:
            model, tokenizer = self.trainer.attribution_model, self.trainer.attribution_processing_class
            name_pad_token(model, tokenizer)
            return self._attribute_with(args, path, model, tokenizer, adapter=True)
        if args.attribution_model is None:
            return self._attribute_with(
                args, path, self.trainer.model, self.trainer.processing_class, adapter=args.attribution_adapter
            )
        model, tokenizer = load_attribution_model(
            args.attribution_model,
            dtype=args.attribution_dtype,
            trust_remote_code=args.trust_remote_code,
            accelerator=self.trainer.accelerator,
        )
        store = self._attribute_with(args, path, model, tokenizer, adapter=True)
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return store

    def _attribute_with(self, args, path, model, tokenizer, adapter):
        accelerator = self.trainer.accelerator
        parallelism = accelerator.parallelism_config
        if parallelism is not None and parallelism.non_data_parallel_size > 1:
            raise NotImplementedError(
                "Attribution inside a run with tensor, context or sequence parallelism is not supported, since its "
                "processes share the work on one trace. Make the attributions first with `trl-segment attribute` and "
                "pass their folder as `attributions`."
            )
        if args.attribution_rule == "density" and accelerator.num_processes > 1:
            raise NotImplementedError(
                "The rule 'density' learns from the first traces of one process, but this run has "
                f"{accelerator.num_processes}. Use another rule, or make the attributions first with `trl-segment "
                "attribute`."
            )
        autocast = "no"
        if model is self.trainer.model:
            model, autocast = accelerator.unwrap_model(model), accelerator.mixed_precision
        settings = attribution_settings(model, tokenizer, args, autocast=autocast)
        if is_peft_model(model) and adapter:
            settings["adapter"] = "on"
        if self.trainer.segmenter is not None:
            settings["segmenter"] = getattr(self.trainer.segmenter, "__qualname__", repr(self.trainer.segmenter))
        store = AttributionStore(path, settings)
        mine = share_of_rows(range(self.trainer.num_traces), lambda row: self.trainer.get_trace(row)[1], store)
        traces = (self.trainer.get_trace(row) for row in mine)
        adapter_off = contextlib.nullcontext() if adapter or not is_peft_model(model) else model.disable_adapter()
        # Another training run with the same output folder would do the same work twice
        alone = exclusive_run(path) if accelerator.is_main_process else contextlib.nullcontext()
        with adapter_off, alone:
            summary = attribute_traces(
                traces,
                model,
                tokenizer,
                args,
                store,
                total=len(mine),
                progress=None if accelerator.is_main_process else False,
            )
        balance = describe_balance(summary)
        if balance and accelerator.is_main_process:
            logger.info(f"Attribution: {balance}")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            AttributionStore(path, settings).compact()
        accelerator.wait_for_everyone()
        return AttributionStore(path, settings)
