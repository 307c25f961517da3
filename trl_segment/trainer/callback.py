"""The callback that has the attributions at hand before the first step."""

import contextlib
import gc
import os
import shutil
from collections import ChainMap
from typing import TYPE_CHECKING

import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback

from ..attribution import attribute_traces, attribution_settings
from ..attribution.sharing import describe_balance, share_of_rows
from ..models import load_model, name_pad_token
from ..models.precision import check_tf32, in_precision, split_precision, tf32_products
from ..printing import get_logger
from ..store import AttributionStore, exclusive_run, open_or_renew, open_store, settings_of
from ._trl_compat import parallel_over_one_trace, without_autocast


if TYPE_CHECKING:
    from .sft_trainer import SegmentSelectiveSFTTrainer


logger = get_logger(__name__)

# The underscore keeps it out of `push_to_hub`: names of traces and scores are not the model
STORE_FOLDER = "_attributions"
_EPOCH, _RESUMED = "epoch-", "resumed-"


class SegmentAttributionCallback(TrainerCallback):
    """
    When training begins: read the attributions of the training set, or compute and store them, and select segments.

    The model is attributed as it is before the first step, unwrapped and with its adapter off, so a LoRA run uses its
    base model; or another model is loaded for it. A resumed run reads what the first run stored, and a second call of
    `train` what the first has used; `reattribute_every_epochs` asks for the model as it becomes.

    Scores in `<output_dir>/_attributions` are the trainer's to manage. Those that do not fit the run (another model,
    another rule) are moved aside and made again, with a warning; traces that a resumed run finds no scores for are
    attributed with the model as it then is, with a warning too. Only a store that `attributions` points to is refused
    where it does not fit.

    Args:
        trainer ([`SegmentSelectiveSFTTrainer`]):
            The trainer that it belongs to; it adds the callback itself.
    """

    def __init__(self, trainer: "SegmentSelectiveSFTTrainer"):
        self.trainer = trainer
        self._first_store = None

    def on_train_begin(self, args, state, control, **kwargs):
        if args.attributions is not None:
            store = open_store(args.attributions)
        elif self._first_store is not None:
            store = self._first_store
        elif state.global_step > 0:
            store = self._of_first_run(args, state.global_step)
        else:
            self._remove_epochs(args)
            store = self._attribute(args, self._folder(args))
        self._first_store = store
        summary = self.trainer.select_segments(store)
        self._say_reliability(args, summary, store)

    def on_epoch_begin(self, args, state, control, **kwargs):
        every, epoch = args.reattribute_every_epochs, round(state.epoch or 0)
        if every is None or epoch == 0 or epoch % every:
            return
        # With the model as it has become, adapter included; a resumed run finds what was stored
        path = self._folder(args, f"{_EPOCH}{epoch}")
        store = AttributionStore(path) if os.path.exists(os.path.join(path, "complete")) else None
        incomplete = store is None or bool(self._rows_missing(store))
        self.trainer.accelerator.wait_for_everyone()
        if incomplete:
            self._on_main_process(lambda: shutil.rmtree(path, ignore_errors=True))
            trainer = self.trainer
            store = self._attribute_with(args, path, trainer.model, trainer.processing_class, adapter=True)
            with open(os.path.join(path, "complete"), "w"):
                pass
        self.trainer.select_segments(store)

    def _say_reliability(self, args, summary, store):
        """Before the first step: what the scores are worth, and no run on worthless ones where that was asked."""
        options = settings_of(store).options
        unsettled = summary.reliability.warning(options)
        if unsettled is not None and self.trainer.accelerator.is_main_process:
            logger.warning(unsettled)
        unread = summary.reliability.unread_warning()
        if unread is not None and self.trainer.accelerator.is_main_process:
            logger.warning(unread)
        if args.attribution_strict:
            summary.reliability.check(options)

    def _folder(self, args, *below):
        return os.path.join(args.output_dir, STORE_FOLDER, *below)

    def _of_first_run(self, args, step):
        """What the first run has stored, and scores of the traces that it did not know."""
        path = self._folder(args)
        first = problem = None
        try:
            first = AttributionStore(path)
        except (FileNotFoundError, ValueError) as error:
            problem = error
        # All have looked before one of them writes
        self.trainer.accelerator.wait_for_everyone()
        if first is None:
            logger.warning(
                f"Training resumes at step {step}, but the scores of a first run cannot be read ({problem}). All "
                "traces are attributed with the model as it now is. To use the initial model's scores, make them with "
                "`trl-segment attribute` and pass their folder as `attributions`."
            )
            return self._attribute(args, path)
        stores = [first]
        for name in sorted(os.listdir(path)):
            if name.startswith(_RESUMED):
                stores.append(AttributionStore(os.path.join(path, name)))
        rows = self._rows_missing(ChainMap(*stores))
        self.trainer.accelerator.wait_for_everyone()
        if rows:
            logger.warning(
                f"Training resumes at step {step} with {len(rows)} of {self.trainer.num_traces} traces that the first "
                f"run did not know ({', '.join(self.trainer.get_trace(row)[0] for row in rows[:5])}"
                f"{', ...' if len(rows) > 5 else ''}). They are attributed with the model as it now is; the others "
                "keep the scores of the initial model."
            )
            stores.append(self._attribute(args, self._folder(args, f"{_RESUMED}{step}"), rows))
        return stores[0] if len(stores) == 1 else ChainMap(*stores)

    def _rows_missing(self, store) -> list[int]:
        tables = (self.trainer.segment_table, self.trainer.eval_segment_table)
        rows, first = [], 0
        for table in tables:
            if table is not None:
                rows += [first + row for row in table.missing(store)]
                first += len(table.keys)
        return rows

    def _remove_epochs(self, args):
        """Scores of an earlier run's later epochs: this run's model will have become another."""
        folder = self._folder(args)

        def remove():
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name.startswith((_EPOCH, _RESUMED)):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

        self._on_main_process(remove)

    def _on_main_process(self, work):
        """One process does it, before any goes on: another would take away what the first has begun."""
        if self.trainer.accelerator.is_main_process:
            work()
        self.trainer.accelerator.wait_for_everyone()

    def _attribute(self, args, path, rows=None):
        trainer = self.trainer
        if trainer.attribution_model is not None:
            model, tokenizer = trainer.attribution_model, trainer.attribution_processing_class
            name_pad_token(model, tokenizer)
            with in_precision(model, args.attribution_dtype):
                return self._attribute_with(args, path, model, tokenizer, adapter=True, rows=rows)
        if args.attribution_model is None:
            adapter = args.attribution_adapter
            return self._attribute_with(args, path, trainer.model, trainer.processing_class, adapter, rows)
        dtype, tf32 = split_precision(args.attribution_dtype)
        if tf32:
            check_tf32()
        model, tokenizer = load_model(
            args.attribution_model,
            dtype=dtype,
            trust_remote_code=args.trust_remote_code,
            accelerator=trainer.accelerator,
        )
        with tf32_products(tf32) if dtype == "float32" else contextlib.nullcontext():
            store = self._attribute_with(args, path, model, tokenizer, adapter=True, rows=rows)
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return store

    def _attribute_with(self, args, path, model, tokenizer, adapter, rows=None):
        trainer, accelerator = self.trainer, self.trainer.accelerator
        self._check_parallelism(args)
        if model is not trainer.model:
            return self._attribute_unwrapped(path, model, tokenizer, adapter, rows, "no")
        model = accelerator.unwrap_model(model)
        if args.attribution_dtype == "auto":
            return self._attribute_unwrapped(path, model, tokenizer, adapter, rows, accelerator.mixed_precision)
        with in_precision(model, args.attribution_dtype), without_autocast(model):
            return self._attribute_unwrapped(path, model, tokenizer, adapter, rows, "no")

    def _attribute_unwrapped(self, path, model, tokenizer, adapter, rows, autocast):
        trainer, accelerator = self.trainer, self.trainer.accelerator
        config, selection = trainer.attribution, trainer.selection
        settings = attribution_settings(
            model, tokenizer, config, autocast, trainer.segmenter, selection, adapter=adapter
        )
        self._on_main_process(lambda: open_or_renew(path, settings))
        store = AttributionStore(path, settings)
        if rows is None:
            rows = [row for row in range(trainer.num_traces) if row not in trainer.unplaced_rows]
        mine = share_of_rows(rows, lambda row: trainer.get_trace(row)[1], store)
        adapter_off = contextlib.nullcontext() if adapter or not is_peft_model(model) else model.disable_adapter()
        # Another training run with the same output folder would do the same work twice
        alone = exclusive_run(path) if accelerator.is_main_process else contextlib.nullcontext()
        with adapter_off, alone:
            summary = attribute_traces(
                (trainer.get_trace(row) for row in mine),
                model,
                tokenizer,
                config,
                store,
                total=len(mine),
                progress=None if accelerator.is_main_process else False,
                selection=selection,
            )
        balance = describe_balance(summary)
        if balance and accelerator.is_main_process:
            logger.info(f"Attribution: {balance}")
        accelerator.wait_for_everyone()
        self._on_main_process(AttributionStore(path, settings).compact)
        return AttributionStore(path, settings)

    def _check_parallelism(self, args):
        if parallel_over_one_trace(self.trainer.accelerator):
            raise NotImplementedError(
                "Attribution inside a run with tensor, context or sequence parallelism is not supported, since its "
                "processes share the work on one trace. Make the attributions first with `trl-segment attribute` and "
                "pass their folder as `attributions`."
            )
        if args.attribution_rule == "density" and self.trainer.accelerator.num_processes > 1:
            raise NotImplementedError(
                "The rule 'density' learns from the first traces of one process, but this run has "
                f"{self.trainer.accelerator.num_processes}. Use another rule, or make the attributions first with "
                "`trl-segment attribute`."
            )
