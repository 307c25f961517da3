"""The collator that masks the labels of dropped segments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .rows import EVAL_UNITS_COLUMN, UNITS_COLUMN


@dataclass
class DataCollatorForSegmentSelectiveLM:
    """
    Data collator that sets the labels of dropped segments to -100 and leaves the rest to another collator.

    The labels are masked before the batch is laid out, so padding, packing and padding-free batches all follow. Labels
    that are already -100 stay so: masks are intersected. The first batch is compared with what the table says, so that
    a collator that makes labels of its own is found before a step is taken. Attributes of the other collator
    (`pad_token_id`, ...) can be read from this one.

    Args:
        collator (`Callable`):
            Collator that makes the batch, usually [`~trl.trainer.sft_trainer.DataCollatorForLanguageModeling`]. It
            must use the `labels` of the examples, and keep their tokens in order.
        trained (`torch.Tensor`):
            Table of units, bool, shape (1 + units,): whether a unit is trained. Read at every call.
        weights (`tuple[float, float]`, *optional*):
            Loss weights of kept and of dropped segments. If given, labels are left as they are and the batch has one
            more entry: `loss_weights`, float32, of the labels' shape.
        evaluated (`torch.Tensor`, *optional*):
            Table of the units of evaluation sets (column `eval_segment_units`).

    Returns (when called):
        `dict[str, torch.Tensor]`: The batch, with one more entry if the examples have units: `segment_counts`, int64,
        shape (1, 4): trained tokens, tokens that SFT would train, trained segments, segments. For examples of an
        evaluation set with units instead `kept_tokens`, float32, of the labels' shape: 0 in dropped segments, else 1.

    Raises:
        `ValueError`: If an example's units, labels and tokens differ in number, or the other collator undoes the mask.

    Examples:
    ```python
    >>> collator = DataCollatorForSegmentSelectiveLM(
    ...     DataCollatorForLanguageModeling(pad_token_id=0), torch.tensor([True, True, True, False, False])
    ... )
    >>> collator([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "segment_units": [0, 2, 4]}])["labels"]
    tensor([[-100,    6, -100]])
    ```
    """

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    trained: torch.Tensor
    weights: tuple[float, float] | None = None
    evaluated: torch.Tensor | None = None

    def __post_init__(self):
        self._checked = False

    def __getattr__(self, name: str) -> Any:
        # Asked for what this class does not have; before `collator` is set, as in unpickling, there is nobody to ask
        if name.startswith("__") or "collator" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["collator"], name)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if EVAL_UNITS_COLUMN in examples[0]:
            units = [_numbers(example, EVAL_UNITS_COLUMN) for example in examples]
            rows = [_without(example, EVAL_UNITS_COLUMN) for example in examples]
            batch = self.collator(rows)
            table = self.evaluated.numpy()
            kept = [np.where(numbers > 0, table[numbers], True) for numbers in units]
            return {**batch, "kept_tokens": _lay_out(rows, kept, batch)}
        if UNITS_COLUMN not in examples[0]:  # evaluation: the loss of the full completion, so that runs compare
            return self.collator(examples)
        table = self.trained.numpy()
        rows, weights, counts = [], [], np.zeros(4, dtype=np.int64)
        for example in examples:
            units, labels = _numbers(example, UNITS_COLUMN), _numbers(example, "labels")
            selected = np.where(table[units], labels, -100)
            kept_labels = selected if self.weights is None else labels
            rows.append({**_without(example, UNITS_COLUMN), "labels": kept_labels.tolist()})
            if self.weights is not None:
                inside = np.where(table[units], *self.weights)
                weights.append(np.where(units > 0, inside, 1.0))  # outside the reasoning every token weighs 1
            # The rest of segment i is unit 2 * i + 2, so even numbers count each segment once
            bodies = np.unique(units[(units > 0) & (units % 2 == 0)])
            counts += [(selected != -100).sum(), (labels != -100).sum(), table[bodies].sum(), len(bodies)]
        batch = self.collator(rows)
        if not self._checked:
            _check_labels(rows, batch, self.collator)
            self._checked = True
        batch = {**batch, "segment_counts": torch.from_numpy(counts)[None]}
        if self.weights is not None:
            batch["loss_weights"] = _lay_out(rows, weights, batch)
        return batch


def _without(example, column):
    return {name: value for name, value in example.items() if name != column}


def _numbers(example, column) -> np.ndarray:
    """A column that has one number for each token."""
    numbers = np.asarray(example[column])
    if numbers.shape != (len(example["input_ids"]),):
        raise ValueError(
            f"An example has {len(example['input_ids'])} tokens, but its column {column!r} holds "
            f"{'one number' if numbers.ndim == 0 else f'{len(numbers)} entries'}. There must be one for each token. "
            "A column of the dataset that is called 'labels' is taken for token labels, as SFTTrainer does: rename it "
            "if it holds something else."
        )
    return numbers


def _lay_out(rows, values, batch) -> torch.Tensor:
    """Numbers of the tokens where the batch has put the tokens, float32, of the labels' shape; 1 elsewhere."""
    laid_out = torch.ones(batch["labels"].shape, dtype=torch.float32)
    for (row, start), numbers in zip(_places(rows, batch), values, strict=True):
        laid_out[row, start : start + len(numbers)] = torch.from_numpy(np.asarray(numbers, dtype=np.float32))
    return laid_out


def _places(rows, batch) -> list[tuple[int, int]]:
    """
    Row and first position of each example's tokens in a batch: padded on either side, in any order, or one behind the
    other.
    """
    ids = batch["input_ids"].numpy()
    lengths = [len(row["input_ids"]) for row in rows]
    places, taken = [], set()
    for i, (row, length, end) in enumerate(zip(rows, lengths, np.cumsum(lengths), strict=True)):
        if len(ids) == len(rows):
            # Nearly always the row of the same number
            candidates = ((j, start) for j in (i, *range(len(ids))) for start in (0, ids.shape[1] - length))
        else:
            candidates = ((0, end - length),)
        fits = (
            (j, start)
            for j, start in candidates
            if (j not in taken or len(ids) != len(rows))
            and start >= 0
            and np.array_equal(ids[j, start : start + length], row["input_ids"])
        )
        place = next(fits, None)
        if place is None:
            raise ValueError(
                "The data collator does not lay out the tokens of its examples in order, padded or one behind the "
                "other, so it cannot be known which tokens of its batch belong to which segment. Leave "
                "`data_collator` out, or pass one that only pads."
            )
        taken.add(place[0])
        places.append(place)
    return places


def _check_labels(rows, batch, collator) -> None:
    """That what was masked is masked in the batch too, and only padding and what was masked is."""
    wanted = torch.full(batch["labels"].shape, -100)
    for (row, start), example in zip(_places(rows, batch), rows, strict=True):
        wanted[row, start : start + len(example["labels"])] = torch.as_tensor(example["labels"])
    undone = int(((batch["labels"] != -100) & (wanted == -100)).sum())
    if undone:
        raise ValueError(
            f"The data collator {type(collator).__name__} makes labels of its own: {undone} of "
            f"{int((wanted == -100).sum())} tokens that are not to be trained have a label in its first batch, so "
            "dropped segments would be trained. Pass a collator that uses the `labels` of its examples, or leave "
            "`data_collator` out."
        )
