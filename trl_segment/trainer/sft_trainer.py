"""[`~trl.SFTTrainer`] that trains only on the segments that matter to the answer."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainingArguments
from trl import SFTTrainer

from ..attribution import AttributionConfig
from ..configs import config_of
from ..printing import printable
from ..progress import is_quiet
from ..selection import SelectionConfig
from ..store import StoredAttribution
from ..traces import Trace, TraceConfig
from ._trl_compat import (
    arguments_by_position,
    count_items,
    main_process_first,
    model_id,
    prepared_chat_template,
    record_metric,
    signature_columns,
)
from .callback import STORE_FOLDER, SegmentAttributionCallback
from .config import SegmentSelectiveSFTConfig
from .data_collator import DataCollatorForSegmentSelectiveLM
from .loss import SelectiveLoss, WeightedLogProbs, sum_weights
from .model_card import card_metadata, complete_card, selection_section
from .preparation import Preparation, without_units
from .rows import EVAL_UNITS_COLUMN, UNITS_COLUMN, TraceReader
from .segment_table import SegmentTable, SelectionSummary


class SegmentSelectiveSFTTrainer(SFTTrainer):
    r"""
    Trainer for segment-selective supervised fine-tuning (arXiv 2602.00425).

    The model sees every trace whole; the loss is taken on the segments of its reasoning whose Integrated Gradients
    attribution to the right answer is strong and of mixed sign, and on everything outside the reasoning. What differs
    from [`~trl.SFTTrainer`]: dataset preparation numbers the segments of each token, the collator masks the labels of
    dropped segments, and a callback has the attributions computed or read before the first step. The loss is TRL's.
    With every segment kept (`tau=1`, `beta=1`) it trains exactly as [`~trl.SFTTrainer`] does.

    Rows of every text format of [`~trl.SFTTrainer`] are taken, and `question`, `solution`, `answer` rows as in LIMO.
    The right answer is read from the column `args.answer_column`, else from the completion. Traces that cannot be
    attributed (no reasoning, no answer, ...) are trained in full, counted and named.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            See [`~trl.SFTTrainer`].
        args ([`SegmentSelectiveSFTConfig`], *optional*):
            Configuration. Other [`~transformers.TrainingArguments`] are converted.
        data_collator (`Callable`, *optional*):
            Makes batches from examples whose `labels` are already masked. Defaults to TRL's collator.
        train_dataset ([`~datasets.Dataset`]):
            Traces to train on.
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Evaluated on the full completion, so that runs compare.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            A fast tokenizer. Loaded from the model's name if `None`.
        segmenter (`Callable[[str], list[str]]`, *optional*):
            Takes the text of a reasoning and returns its segments in order, in place of `args.segmenter`.
        answer_func (`Callable[[dict], str | None]`, *optional*):
            Takes a row and returns the right answer, in place of `args.answer_column`.
        attribution_model ([`~transformers.PreTrainedModel`], *optional*):
            Another model to attribute with, in place of `args.attribution_model`. Yours to free.
        attribution_processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer. Required with it.
        **kwargs:
            Everything else that [`~trl.SFTTrainer`] takes.

    Raises:
        `ValueError`: On an empty or streaming dataset, a processor for images, or a template that drops the reasoning.

    Examples:
    ```python
    >>> from datasets import load_dataset
    >>> from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer

    >>> trainer = SegmentSelectiveSFTTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     args=SegmentSelectiveSFTConfig(max_length=16384),
    ...     train_dataset=load_dataset("GAIR/LIMO", split="train"),
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["trl", "sft", "trl-segment"]
    _name = "Segment-selective SFT"
    _paper = {
        "title": "Segment-Level Attribution for Selective Learning of Long Reasoning Traces",
        "id": "2602.00425",
        # docstyle-ignore
        "citation": """\
@inproceedings{wang2026segment,
    title     = {{Segment-Level Attribution for Selective Learning of Long Reasoning Traces}},
    author    = {Siyuan Wang and Yanchen Liu and Xiang Ren},
    year      = 2026,
    booktitle = {The Fourteenth International Conference on Learning Representations},
    eprint    = {arXiv:2602.00425},
}""",
    }

    def __init__(
        self,
        model,
        args: SegmentSelectiveSFTConfig | TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_loss_func: Callable | None = None,
        *others,
        segmenter: Callable[[str], list[str]] | None = None,
        answer_func: Callable[[Mapping[str, Any]], str | None] | None = None,
        attribution_model: PreTrainedModel | None = None,
        attribution_processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs,
    ):
        args = _selective_config(args, model)
        self.selection = config_of(SelectionConfig, args)
        self.attribution = config_of(AttributionConfig, args)
        # By position the parent's arguments go on as they are in the parent
        kwargs |= arguments_by_position(others)
        self.segmenter = segmenter
        self.attribution_model = attribution_model
        self.attribution_processing_class = attribution_processing_class
        _check_arguments(self, args, train_dataset, processing_class, compute_loss_func)
        reader = TraceReader(
            config=config_of(TraceConfig, args),
            segmenter=segmenter,
            answer_func=answer_func,
            text_column=args.dataset_text_field,
            formatting_func=kwargs.get("formatting_func"),
        )
        self._preparation = Preparation(args, reader)
        self._selected: tuple[SelectionSummary | None, Mapping[str, StoredAttribution] | None] = (None, None)
        if isinstance(train_dataset, (Dataset, IterableDataset)) and not _skips_preparation(args):
            train_dataset = self._preparation.begin(train_dataset)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_loss_func=compute_loss_func,
            **kwargs,
        )
        self._preparation.numbers_evaluation = False  # what is passed to `evaluate` later has no attributions
        if self.segment_table is not None:
            self._mask_labels()

    def _mask_labels(self):
        """The parent refuses a custom collator together with packing, so ours takes its place afterwards."""
        args, evaluated = self.args, self._preparation.eval_table
        weights = (args.kept_weight, args.dropped_weight) if args.dropped_segments == "weight" else None
        self.data_collator = DataCollatorForSegmentSelectiveLM(
            self.data_collator, self.segment_table.trained, weights, evaluated and evaluated.trained
        )
        self.add_callback(SegmentAttributionCallback(self))

    @property
    def attributions(self) -> str:
        """Where the attributions of the training set are: `args.attributions`, else `<output_dir>/_attributions`."""
        return self.args.attributions or os.path.join(self.args.output_dir, STORE_FOLDER)

    @property
    def segment_table(self) -> SegmentTable | None:
        """Which segments of the training set are trained; `None` with `selection="all"`, which numbers none."""
        return self._preparation.table

    @property
    def eval_segment_table(self) -> SegmentTable | None:
        """The same for evaluation sets, with `eval_selective`."""
        return self._preparation.eval_table

    @property
    def num_traces(self) -> int:
        """Number of rows that are attributed: of the training set before packing, then of evaluation sets."""
        return self._preparation.num_traces

    @property
    def unplaced_rows(self) -> set[int]:
        """Numbers of the rows that are trained in full because their segments have no place among their tokens."""
        return self._preparation.unplaced

    def get_trace(self, index: int) -> tuple[str, Trace]:
        """
        Name and text of a row of the training set, or, behind it, of the evaluation sets with `eval_selective`.

        Args:
            index (`int`):
                Row number, before shuffling and packing.

        Returns:
            `tuple[str, Trace]`: The row's `id`, or its number, and the trace.
        """
        return self._preparation.get_trace(index)

    def select_segments(
        self, store: Mapping[str, StoredAttribution], config: SelectionConfig | None = None
    ) -> SelectionSummary:
        """
        Decide which segments are trained from the next batch on.

        Args:
            store ([`~trl_segment.AttributionStore`]):
                Attributions of every trace of the training set.
            config ([`~trl_segment.SelectionConfig`], *optional*):
                Thresholds. Defaults to those of the trainer's `args`.

        Returns:
            [`SelectionSummary`]: What is kept; also printed.

        Raises:
            `ValueError`: If the store lacks a trace, or the trainer was made with `selection="all"`.
        """
        if self.segment_table is None:
            raise ValueError(
                "This trainer was made with `selection='all'`: its tokens do not know their segments, so none can be "
                "dropped. Make a trainer with another `selection`."
            )
        config = config or self.selection
        if self._preparation.eval_table is not None:
            self._preparation.eval_table.fill(store, config)
        summary = self.segment_table.fill(store, config)
        if self._preparation.cuts_traces:
            units = self.train_dataset.with_format("arrow").select_columns(UNITS_COLUMN)[:].column(0)
            summary.trained_tokens, summary.reached_tokens = self.segment_table.count_tokens(units)
        self._selected = (summary, store)
        if not is_quiet() or summary.skipped:
            self.accelerator.print(printable(str(summary)))
        return summary

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        with main_process_first():
            return self._preparation.prepare(
                dataset,
                processing_class,
                args,
                packing,
                formatting_func,
                dataset_name,
                chat_template=prepared_chat_template(self),
                parent=super()._prepare_dataset,
            )

    def get_test_dataloader(self, test_dataset):
        # Predictions are judged on the full completion
        return super().get_test_dataloader(without_units(test_dataset))

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self.segment_table is not None:
            signature_columns(self, UNITS_COLUMN, EVAL_UNITS_COLUMN)

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        super().create_model_card(model_name, dataset_name, tags)
        if not self.is_world_process_zero():
            return
        summary, store = self._selected
        is_adapter = is_peft_model(self.accelerator.unwrap_model(self.model))
        base_model = model_id(self.model.config)
        section = selection_section(
            self.args,
            summary,
            store,
            keys=None if self.segment_table is None else self.segment_table.keys,
            is_adapter=is_adapter,
            model_id=self.hub_model_id,
            base_model=base_model,
            dataset_name=dataset_name,
        )
        readme = Path(self.args.output_dir) / "README.md"
        card = complete_card(readme.read_text(encoding="utf-8"), section, card_metadata(is_adapter, base_model))
        readme.write_text(card, encoding="utf-8")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        kept_tokens = inputs.pop("kept_tokens", None)
        if kept_tokens is not None and self._selected[0] is not None:
            model = SelectiveLoss(model, kept_tokens)
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            total, count = self.accelerator.gather_for_metrics(model.total[None]).sum(dim=0).tolist()
            record_metric(self, "eval", "selective_loss", total / max(count, 1))
            return result
        weights = inputs.pop("loss_weights", None)
        counts = inputs.pop("segment_counts", None)
        if counts is not None:
            counts = self.accelerator.gather_for_metrics(counts).sum(dim=0).tolist()
            trained_tokens, tokens, trained_segments, segments = counts
            mode = "train" if self.model.training else "eval"
            record_metric(self, mode, "trained_token_share", trained_tokens / max(tokens, 1))
            record_metric(self, mode, "trained_segment_share", trained_segments / max(segments, 1))
        if weights is not None:
            if num_items_in_batch is None:
                num_items_in_batch = sum_weights(weights, inputs["labels"])
            model = WeightedLogProbs(model, weights)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_num_items_in_batch(self, batch_samples, device):
        return count_items(self, batch_samples, device, super()._get_num_items_in_batch, sum_weights)


def _skips_preparation(args) -> bool:
    return bool((args.dataset_kwargs or {}).get("skip_prepare_dataset"))


def _check_arguments(trainer, args, train_dataset, processing_class, compute_loss_func) -> None:
    """Refuse what cannot work, before anything is loaded. With every segment kept all works that SFTTrainer can."""
    if (trainer.attribution_model is None) != (trainer.attribution_processing_class is None):
        raise ValueError(
            "`attribution_model` and `attribution_processing_class` belong together, a model and its tokenizer. Pass "
            "both, or neither."
        )
    if args.selection == "all":
        return
    if isinstance(processing_class, ProcessorMixin):
        raise ValueError(
            f"`processing_class` is a {type(processing_class).__name__}, for a model that sees images. Segments are "
            "spans of text: pass its tokenizer (`processing_class.tokenizer`) to train on text alone, or "
            "`selection='all'` to train as SFTTrainer does."
        )
    if isinstance(train_dataset, IterableDataset):
        if args.attributions is None or args.reattribute_every_epochs is not None:
            raise ValueError(
                "`train_dataset` is an IterableDataset, which cannot be attributed while it is trained on. Attribute "
                "it first, `trl-segment attribute --model_name_or_path ... --dataset_name ... --dataset_streaming "
                "--attributions PATH`, and pass `attributions=PATH` without `reattribute_every_epochs`; or load it "
                "without streaming."
            )
    elif isinstance(train_dataset, Dataset) and len(train_dataset) == 0:
        raise ValueError("`train_dataset` is empty. Check the split and the filters it went through.")
    if args.dropped_segments == "weight" and compute_loss_func is not None:
        raise ValueError(
            "`dropped_segments='weight'` weighs the trainer's own loss, which `compute_loss_func` takes the place of. "
            "Use 'mask', or leave the function out."
        )
    if _skips_preparation(args):
        raise ValueError(
            "`dataset_kwargs={'skip_prepare_dataset': True}` leaves no step in which tokens can be matched with "
            "segments. Leave it out."
        )
    if args.assistant_only_loss and args.completion_rendering == "verbatim":
        raise ValueError(
            "`assistant_only_loss=True` needs the chat template's marks, which `completion_rendering='verbatim'` does "
            "without. Set `completion_only_loss=True` instead: the loss is then on the last turn."
        )


def _selective_config(args, model) -> SegmentSelectiveSFTConfig:
    """As the parent converts its `args`, to our class."""
    if isinstance(args, SegmentSelectiveSFTConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else model_id(model.config)
        return SegmentSelectiveSFTConfig(f"{name.split('/')[-1]}-SFT")
    dict_args = args.to_dict()
    # to_dict writes a placeholder for every field whose name ends so, `eos_token` of SFTConfig among them
    dict_args.update({name: getattr(args, name) for name in dict_args if name.endswith("_token")})
    return SegmentSelectiveSFTConfig(**dict_args)
