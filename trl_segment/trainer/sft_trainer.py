"""[`~trl.SFTTrainer`] that trains only on the segments that matter to the answer."""

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainingArguments
from transformers.utils import logging
from trl import SFTTrainer, pack_dataset
from trl.trainer.utils import get_config_model_id

from ..attribution import AttributionStore
from ..attribution.hub import open_store
from ..attribution.key_index import KeyIndex
from ..selection import SelectionConfig
from ..traces import Trace, TraceConfig, render_prompt, row_name
from .callback import STORE_FOLDER, SegmentAttributionCallback
from .config import SegmentSelectiveSFTConfig
from .data_collator import DataCollatorForSegmentSelectiveLM, SegmentTable, SelectionSummary
from .model_card import card_metadata, complete_card, selection_section
from .preparation import (
    EVAL_UNITS_COLUMN,
    UNITS_COLUMN,
    TraceReader,
    add_units,
    carry_trace,
    cut_units,
    describe_trace,
    map_fingerprint,
    prune,
    question_to_messages,
    render_verbatim,
)


logger = logging.get_logger(__name__)


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
    >>> from trl_segment import SegmentSelectiveSFTTrainer

    >>> trainer = SegmentSelectiveSFTTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct", train_dataset=load_dataset("GAIR/LIMO", split="train")
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
        # By position the parent's arguments go on as they are in the parent
        kwargs |= zip(_parents_other_arguments(), others, strict=False)
        if isinstance(processing_class, ProcessorMixin):
            raise ValueError(
                f"`processing_class` is a {type(processing_class).__name__}, for a model that sees images. Segments "
                "are spans of text: pass its tokenizer (`processing_class.tokenizer`) to train on text alone."
            )
        if isinstance(train_dataset, IterableDataset):
            _check_streaming(args)
        elif isinstance(train_dataset, Dataset) and len(train_dataset) == 0:
            raise ValueError("`train_dataset` is empty. Check the split and the filters it went through.")
        if args.dropped_segments == "weight" and compute_loss_func is not None:
            raise ValueError(
                "`dropped_segments='weight'` weighs the trainer's own loss, which `compute_loss_func` takes the place "
                "of. Use 'mask', or leave the function out."
            )
        if (attribution_model is None) != (attribution_processing_class is None):
            raise ValueError(
                "`attribution_model` and `attribution_processing_class` belong together, a model and its tokenizer. "
                "Pass both, or neither."
            )
        if (args.dataset_kwargs or {}).get("skip_prepare_dataset"):
            raise ValueError(
                "`dataset_kwargs={'skip_prepare_dataset': True}` leaves no step in which tokens can be matched with "
                "segments. Leave it out."
            )
        if args.assistant_only_loss and args.completion_rendering == "verbatim":
            raise ValueError(
                "`assistant_only_loss=True` needs the chat template's marks, which `completion_rendering='verbatim'` "
                "does without. Set `completion_only_loss=True` instead: the loss is then on the last turn."
            )
        self._reader = TraceReader(
            config=TraceConfig(args.segmenter, args.segment_pattern, args.answer_column, args.question_template),
            segmenter=segmenter,
            answer_func=answer_func,
            text_column=args.dataset_text_field,
            formatting_func=kwargs.get("formatting_func"),
        )
        self.segmenter = segmenter
        self.attribution_model = attribution_model
        self.attribution_processing_class = attribution_processing_class
        self.segment_table: SegmentTable | None = None
        self._eval_table: SegmentTable | None = None
        self._trace_sets: list[Dataset] = []
        self._selection: tuple[SelectionSummary | None, AttributionStore | None] = (None, None)
        self._trains_questions = False
        self._evaluates_selectively = args.eval_selective
        if isinstance(train_dataset, (Dataset, IterableDataset)):
            # Before the parent looks at the columns to decide what the loss is on
            self._trains_questions = self._has_questions(train_dataset)
            train_dataset = self._as_prompt_completion(train_dataset)
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
        # The parent refuses a custom collator together with packing, so ours takes its place afterwards
        weights = (args.kept_weight, args.dropped_weight) if args.dropped_segments == "weight" else None
        self._evaluates_selectively = False  # what is passed to `evaluate` from now on has no attributions
        self.data_collator = DataCollatorForSegmentSelectiveLM(
            self.data_collator, self.segment_table.trained, weights, self._eval_table and self._eval_table.trained
        )
        self.add_callback(SegmentAttributionCallback(self))

    @property
    def attributions(self) -> str:
        """Where the attributions of the training set are: `args.attributions`, else `<output_dir>/_attributions`."""
        return self.args.attributions or os.path.join(self.args.output_dir, STORE_FOLDER)

    @property
    def num_traces(self) -> int:
        """Number of rows that are attributed: of the training set before packing, then of evaluation sets."""
        return sum(map(len, self._trace_sets))

    def get_trace(self, index: int) -> tuple[str, Trace]:
        """
        Name and text of a row of the training set, or, behind it, of the evaluation sets with `eval_selective`.

        Args:
            index (`int`):
                Row number, before shuffling and packing.

        Returns:
            `tuple[str, Trace]`: The row's `id`, or its number, and the trace.
        """
        for rows in self._trace_sets:
            if index < len(rows):
                break
            index -= len(rows)
        row = rows[index]
        return row_name(row, index), self._reader(row)

    def select_segments(self, store: AttributionStore, config: SelectionConfig | None = None) -> SelectionSummary:
        """
        Decide which segments are trained from the next batch on.

        Args:
            store ([`~trl_segment.AttributionStore`]):
                Attributions of every trace of the training set.
            config ([`~trl_segment.SelectionConfig`], *optional*):
                Thresholds. Defaults to the trainer's `args`.

        Returns:
            [`SelectionSummary`]: What is kept; also printed.

        Raises:
            `ValueError`: If the store lacks a trace.
        """
        if self._eval_table is not None:
            self._eval_table.fill(store, config or self.args, seed=self.args.seed)
        summary = self.segment_table.fill(store, config or self.args, seed=self.args.seed)
        self._selection = (summary, store)
        self.accelerator.print(summary)
        return summary

    def _as_prompt_completion(self, dataset):
        """Question and solution rows as conversational prompt-completion rows; other formats as they are."""
        if not self._has_questions(dataset):
            return dataset
        return dataset.map(question_to_messages, fn_kwargs={"reader": self._reader})

    def _has_questions(self, dataset):
        """Whether the rows are in none of TRL's formats."""
        columns = _column_names(dataset)
        return not (self._reader.formatting_func or "input_ids" in columns or self._has_text(columns))

    def _has_text(self, columns):
        """Whether these are the columns of one of TRL's text formats."""
        text_formats = ({"prompt", "completion"}, {"messages"}, {"conversations"}, {self._reader.text_column})
        return any(text_format <= columns for text_format in text_formats)

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if isinstance(processing_class, ProcessorMixin):
            raise ValueError(
                f"The model's processor is a {type(processing_class).__name__}, for a model that sees images. Pass "
                "its tokenizer as `processing_class` to train on text alone."
            )
        selective = dataset_name == "train" and self.segment_table is None
        questions = self._has_questions(dataset) or (selective and self._trains_questions)
        verbatim = args.completion_rendering == "verbatim" or (args.completion_rendering == "auto" and questions)
        # Datasets that are passed to `evaluate` arrive here first
        dataset = self._as_prompt_completion(dataset)
        if not selective:
            dataset = _without_units(dataset)
        streaming = isinstance(dataset, IterableDataset)
        tokenized = "input_ids" in _column_names(dataset)
        if selective and tokenized and not self._has_text(_column_names(dataset)):
            raise ValueError(
                "`train_dataset` is already tokenized (it has 'input_ids') and has no text beside the tokens, so its "
                "segments cannot be found. Keep the columns that it was tokenized from, in any format that SFTTrainer "
                "takes, or pass the text alone."
            )
        map_kwargs = {} if streaming else {"num_proc": args.dataset_num_proc}

        def fingerprint(step, *parts):
            return {} if streaming else {"new_fingerprint": map_fingerprint(dataset, step, processing_class, *parts)}

        numbered = selective or (self._evaluates_selectively and not streaming and dataset_name != "train")
        column = UNITS_COLUMN if selective else EVAL_UNITS_COLUMN
        pruned = selective and args.dropped_segments == "prune"
        if numbered:
            dataset, rows, offsets = self._number_traces(dataset, args, map_kwargs, selective)
        if verbatim and not tokenized:
            dataset = dataset.map(
                render_verbatim,
                fn_kwargs={"tokenizer": processing_class, "reader": self._reader},
                remove_columns=sorted({"messages", "conversations"} & _column_names(dataset)),
                **map_kwargs,
                **fingerprint("verbatim", self._reader),
            )
        if not numbered:
            return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

        if not streaming and not tokenized and self._reader(rows[0]).prompt:
            # A template that loses the question is found before TRL tokenizes with it
            render_prompt(self._reader(rows[0]), processing_class)
        # The parent tokenizes and builds labels, of everything, in order
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        dataset = super()._prepare_dataset(dataset, processing_class, whole, False, formatting_func, dataset_name)
        if not streaming and args.max_length is not None and selective and not pruned:
            self._report_cut(dataset, args.max_length, splits=packing and args.packing_strategy != "bfd")
        # Packing cuts by itself; otherwise the units are cut as the parent is about to cut tokens and labels
        cut = (None, None)
        if args.max_length is not None and not packing:
            cut = (-args.max_length, None) if args.truncation_mode == "keep_end" else (None, args.max_length)
        cut_units_to = (None, None) if pruned else cut
        dataset = dataset.map(
            add_units,
            with_indices=True,
            fn_kwargs={
                "rows": rows,
                "reader": self._reader,
                "tokenizer": processing_class,
                "chat_template": self.chat_template,
                "offsets": offsets,
                "cut": cut_units_to,
                "tokenized": tokenized,
                "column": column,
            },
            **map_kwargs,
            **fingerprint("units", self._reader, self.chat_template, offsets, cut_units_to, tokenized, column),
        )
        if pruned:
            # What is left is trained in full, so that the units have done their work
            table = self.segment_table
            table.fill(open_store(args.attributions), args, seed=args.seed)
            dataset = dataset.map(prune, fn_kwargs={"trained": table.trained.numpy()}, **map_kwargs)
            dataset = dataset.map(cut_units, fn_kwargs={"cut": cut}, **map_kwargs)
        if not packing:
            return super()._prepare_dataset(dataset, processing_class, args, False, None, dataset_name)
        # The parent's packing drops the column of units, so these few lines stand in for it
        if args.max_length is None:
            raise ValueError("When packing is enabled, `max_length` can't be `None`.")
        dataset = dataset.select_columns(["input_ids", "labels", column])
        if args.shuffle_dataset:
            dataset = dataset.shuffle(seed=args.seed)
        dataset = pack_dataset(dataset, args.max_length, args.packing_strategy, map_kwargs)
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset

    def _report_cut(self, dataset, max_length, splits):
        """Name the traces that are longer than what is trained of them."""
        lengths = pc.list_value_length(dataset.with_format("arrow")[:]["input_ids"]).to_numpy()
        long = np.flatnonzero(lengths > max_length)
        if len(long) and not splits:
            names = [self.segment_table.names[index] for index in long[:5]]
            logger.warning(
                f"{len(long)} of {len(lengths)} traces are longer than max_length={max_length:,} tokens (the longest "
                f"has {lengths.max():,}) and are cut; segments beyond it are not trained, kept or not: "
                f"{', '.join(names)}{', ...' if len(long) > 5 else ''}"
            )

    def _number_traces(self, dataset, args, map_kwargs, selective):
        """Make or extend the table of segments; the dataset, its rows as they are, and what to add to their units."""
        if isinstance(dataset, IterableDataset):
            # Which rows will come is not known, but what can come is: what the store holds
            columns = [], [], [], []
            for row in open_store(args.attributions).values():
                for column, value in zip(columns, (row.key, row.name, len(row.num_tokens), row.problem), strict=True):
                    column.append(value)
            self.segment_table = table = SegmentTable(*columns)
            offsets = KeyIndex(table.keys, table.offsets)
            return dataset.map(carry_trace, fn_kwargs={"reader": self._reader}), None, offsets
        described = dataset.map(
            describe_trace,
            with_indices=True,
            fn_kwargs={"reader": self._reader},
            remove_columns=dataset.column_names,
            **map_kwargs,
        )
        columns = described.with_format("arrow")[:]
        table = SegmentTable(*(columns[name] for name in ("key", "name", "num_segments", "problem")))
        self._trace_sets.append(dataset)
        if selective:
            self.segment_table = table
        elif self._eval_table is None:
            self._eval_table = table
        else:
            return dataset, dataset, self._eval_table.extend(table)
        return dataset, dataset, table.offsets

    def get_test_dataloader(self, test_dataset):
        # Predictions are judged on the full completion
        return super().get_test_dataloader(_without_units(test_dataset))

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        for column in (UNITS_COLUMN, EVAL_UNITS_COLUMN):
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        super().create_model_card(model_name, dataset_name, tags)
        if not self.is_world_process_zero():
            return
        summary, store = self._selection
        is_adapter = is_peft_model(self.accelerator.unwrap_model(self.model))
        base_model = get_config_model_id(self.model.config)
        section = selection_section(
            self.args,
            summary,
            store,
            keys=self.segment_table.keys,
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
        if kept_tokens is not None and self._selection[0] is not None:
            model = _SelectiveLoss(model, kept_tokens)
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            total, count = self.accelerator.gather_for_metrics(model.total[None]).sum(dim=0).tolist()
            self._metrics["eval"]["selective_loss"].append(total / max(count, 1))
            return result
        weights = inputs.pop("loss_weights", None)
        counts = inputs.pop("segment_counts", None)
        if counts is not None:
            counts = self.accelerator.gather_for_metrics(counts).sum(dim=0).tolist()
            trained_tokens, tokens, trained_segments, segments = counts
            metrics = self._metrics["train" if self.model.training else "eval"]
            metrics["trained_token_share"].append(trained_tokens / max(tokens, 1))
            metrics["trained_segment_share"].append(trained_segments / max(segments, 1))
        if weights is not None:
            if num_items_in_batch is None:
                num_items_in_batch = _sum_weights(weights, inputs["labels"])
            model = _WeightedLogProbs(model, weights)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_num_items_in_batch(self, batch_samples, device):
        count = super()._get_num_items_in_batch(batch_samples, device)
        if count is None or "loss_weights" not in batch_samples[0]:
            return count
        # What the parent counts, weighted; it gathers over processes and divides by the copies of tensor parallelism
        total = sum(_sum_weights(batch["loss_weights"], batch["labels"]) for batch in batch_samples).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum() / self.get_tp_size()
        return total


class _WeightedLogProbs:
    """A model whose per-token log-probabilities come out weighted; everything else is the model's."""

    def __init__(self, model, weights):
        self.model, self.weights = model, weights

    def __call__(self, **inputs):
        outputs = self.model(**inputs)
        if "log_probs" in outputs:  # not where the logits are asked for instead
            outputs.log_probs = outputs.log_probs * _behind_virtual_tokens(self.weights, outputs.log_probs)
        return outputs


class _SelectiveLoss:
    """A model that notes the loss on kept segments and their token count (`total`, shape (2,)) of its outputs."""

    def __init__(self, model, kept_tokens):
        self.model, self.kept_tokens, self.total = model, kept_tokens, torch.zeros(2, device=kept_tokens.device)

    def __call__(self, **inputs):
        outputs = self.model(**inputs)
        if "log_probs" in outputs:
            kept = _behind_virtual_tokens(self.kept_tokens, outputs.log_probs)
            self.total = torch.stack([-(outputs.log_probs * kept).sum(), (outputs.label_mask * kept).sum()]).detach()
        return outputs


def _behind_virtual_tokens(weights, log_probs):
    """Weights of the tokens that `log_probs` are of; prompt tuning puts virtual tokens in front."""
    shifted = weights[:, 1:].to(log_probs)
    return torch.nn.functional.pad(shifted, (log_probs.shape[1] - shifted.shape[1], 0), value=1.0)


def _sum_weights(weights, labels):
    """Sum of the weights of the tokens that are predicted: the first of a row is not."""
    return weights[:, 1:][labels[:, 1:] != -100].sum()


def _parents_other_arguments() -> list[str]:
    """Names of the arguments of SFTTrainer behind those that are written out here."""
    names = list(inspect.signature(SFTTrainer.__init__).parameters)
    return names[names.index("compute_loss_func") + 1 :]


def _without_units(dataset):
    """A dataset that was prepared for training, as one to evaluate on."""
    prepared = hasattr(dataset, "column_names") and UNITS_COLUMN in (dataset.column_names or ())
    return dataset.remove_columns(UNITS_COLUMN) if prepared else dataset


def _column_names(dataset) -> set[str]:
    # A streamed dataset may not know its columns before its first row
    return set(dataset.column_names or next(iter(dataset)))


def _check_streaming(args):
    if args.attributions is None or args.reattribute_every_epochs is not None:
        raise ValueError(
            "`train_dataset` is an IterableDataset, which cannot be attributed while it is trained on. Attribute it "
            "first, `trl-segment attribute --model_name_or_path ... --dataset_name ... --dataset_streaming "
            "--attributions PATH`, and pass `attributions=PATH` without `reattribute_every_epochs`; or load it "
            "without streaming."
        )


def _selective_config(args, model) -> SegmentSelectiveSFTConfig:
    """As the parent converts its `args`, to our class."""
    if isinstance(args, SegmentSelectiveSFTConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        return SegmentSelectiveSFTConfig(f"{name.split('/')[-1]}-SFT")
    dict_args = args.to_dict()
    # to_dict writes a placeholder for every field whose name ends so, `eos_token` of SFTConfig among them
    dict_args.update({name: getattr(args, name) for name in dict_args if name.endswith("_token")})
    return SegmentSelectiveSFTConfig(**dict_args)
