"""Options of selective training. Neither TRL nor torch is loaded to know them."""

import math
from dataclasses import dataclass, field
from typing import Any

from ..attribution import AttributionConfig
from ..precisions import PRECISIONS
from ..selection import SelectionConfig


DROPPED_SEGMENTS = ("mask", "weight", "prune")
COMPLETION_RENDERINGS = ("auto", "template", "verbatim")


@dataclass
class SelectiveTrainingConfig(SelectionConfig, AttributionConfig):
    r"""
    What training does with segments, beside which are kept and how they are scored. [`SegmentSelectiveSFTConfig`] adds
    these options to TRL's. Extends [`~trl_segment.SelectionConfig`] and [`~trl_segment.AttributionConfig`].

    Parameters:
        dropped_segments (`str`, *optional*, defaults to `"mask"`):
            Treatment of dropped segments: `"mask"` takes them out of the loss, `"weight"` leaves them in it with
            `dropped_weight`, `"prune"` takes them out of the sequence (the paper's comparison; needs `attributions`).
        dropped_weight (`float`, *optional*, defaults to `0.1`):
            Loss weight of the tokens of dropped segments with `dropped_segments="weight"`. The loss is divided by the
            sum of all weights.
        kept_weight (`float`, *optional*, defaults to `1.0`):
            Loss weight of the tokens of kept segments. Tokens outside the reasoning weigh 1.
        eval_selective (`bool`, *optional*, defaults to `False`):
            Whether to log `eval_selective_loss`, the loss on the kept segments of the evaluation sets, beside the loss
            of their full completions. Their traces are attributed too; `attributions` must hold them.
        attribution_model (`str`, *optional*):
            Name or folder of another model to attribute with. It is loaded with its own tokenizer when training begins
            and freed before the first step. If `None`, the trained model is used.
        attribution_dtype (`str`, *optional*, defaults to `"auto"`):
            Precision that attributions are computed in: `"bfloat16"`, `"float16"`, `"float32"`, `"tf32"` (float32
            whose products an NVIDIA GPU makes in TF32), or `"auto"`, that of the model. The trained model's weights
            are cast for it and are afterwards as before, and its mixed precision is off meanwhile. What each
            precision brings is on the page on real models.
        attribution_adapter (`bool`, *optional*, defaults to `False`):
            Whether the adapter of the trained model is on while it attributes.
        reattribute_every_epochs (`int`, *optional*):
            Attribute again with the model as it has become (adapter on), every so many epochs.
        attributions (`str`, *optional*):
            Attribution store made with `trl-segment attribute`, a folder or a dataset on the Hub. It must hold every
            trace of the training set. If `None`, attributions are computed when training begins, with the model as it
            is then (adapter off), and stored in `<output_dir>/_attributions`; a resumed run reads them from there.
        completion_rendering (`str`, *optional*, defaults to `"auto"`):
            How a conversational example becomes text:

            - `"template"`: by the chat template, as [`~trl.SFTTrainer`] does.
            - `"verbatim"`: the prompt by the chat template with its generation prompt, then the completion as the
              dataset has it and the EOS token. For templates that drop the reasoning, such as the R1 distills'.
            - `"auto"`: `"verbatim"` for rows that are in no format of TRL's (`question` and `solution`, ...), as in
              the paper, `"template"` for all others.

    Raises:
        `ValueError`: On a value that cannot work.
    """

    dropped_segments: str = field(
        default="mask",
        metadata={
            "help": "Treatment of dropped segments: 'mask' (out of the loss), 'weight' (in it with "
            "`dropped_weight`) or 'prune' (out of the sequence; needs `attributions`).",
            "choices": list(DROPPED_SEGMENTS),
        },
    )
    dropped_weight: float = field(
        default=0.1, metadata={"help": "Loss weight of dropped segments with `dropped_segments='weight'`."}
    )
    kept_weight: float = field(
        default=1.0, metadata={"help": "Loss weight of kept segments with `dropped_segments='weight'`."}
    )
    eval_selective: bool = field(
        default=False,
        metadata={"help": "Whether to log the loss on kept segments of evaluation sets beside that on all of them."},
    )
    attribution_model: str | None = field(
        default=None,
        metadata={"help": "Another model to attribute with, loaded when training begins and freed before it does."},
    )
    attribution_dtype: str = field(
        default="auto",
        metadata={
            "help": "Precision of the attribution: bfloat16, float16, float32, tf32, or 'auto', that of the model.",
            "choices": list(PRECISIONS),
        },
    )
    attribution_adapter: bool = field(
        default=False, metadata={"help": "Whether the trained model's adapter is on while it attributes."}
    )
    reattribute_every_epochs: int | None = field(
        default=None, metadata={"help": "Attribute again with the model as it has become, every so many epochs."}
    )
    attributions: str | None = field(
        default=None,
        metadata={
            "help": "Attribution store made with `trl-segment attribute`: a folder or a Hub dataset. If unset, "
            "attributions are computed when training begins and stored in <output_dir>/_attributions."
        },
    )
    completion_rendering: str = field(
        default="auto",
        metadata={
            "help": "How a conversational example becomes text: by the chat 'template', or 'verbatim' (prompt with "
            "its generation prompt, completion as it is, EOS), for templates that drop the reasoning. 'auto': "
            "verbatim for question/solution rows, template for all others.",
            "choices": list(COMPLETION_RENDERINGS),
        },
    )

    def __post_init__(self):
        if self.completion_rendering not in COMPLETION_RENDERINGS:
            raise ValueError(
                f"Unknown completion rendering {self.completion_rendering!r}. Pass one of "
                f"{', '.join(map(repr, COMPLETION_RENDERINGS))}."
            )
        if self.attribution_dtype not in PRECISIONS:
            raise ValueError(
                f"Unknown `attribution_dtype` {self.attribution_dtype!r}. Pass one of "
                f"{', '.join(map(repr, PRECISIONS))}."
            )
        if self.dropped_segments not in DROPPED_SEGMENTS:
            raise ValueError(
                f"Unknown treatment of dropped segments {self.dropped_segments!r}. Pass one of "
                f"{', '.join(map(repr, DROPPED_SEGMENTS))}."
            )
        if not 0 <= self.dropped_weight <= 1 or not 0 < self.kept_weight < math.inf:
            raise ValueError(
                f"`dropped_weight` must be in [0, 1] and `kept_weight` above 0 and finite, but {self.dropped_weight} "
                f"and {self.kept_weight} were passed."
            )
        if self.dropped_segments == "prune" and self.attributions is None:
            raise ValueError(
                "`dropped_segments='prune'` takes tokens out when the dataset is prepared, before training begins. "
                "Make the attributions with `trl-segment attribute` and pass their folder as `attributions`."
            )
        if self.reattribute_every_epochs is not None and (
            self.reattribute_every_epochs < 1 or self.dropped_segments == "prune"
        ):
            raise ValueError(
                "`reattribute_every_epochs` must be at least 1 and does not go with `dropped_segments='prune'`, but "
                f"{self.reattribute_every_epochs} and {self.dropped_segments!r} were passed."
            )
        super().__post_init__()


def name_checkpointing(args: Any, parent: type) -> None:
    """
    Give TRL's default of `gradient_checkpointing` its new name, `activation_checkpointing`. transformers warns of the
    old one, also where nobody has set it. A value that somebody has set stays where it is.

    Args:
        args (`Any`):
            A config of TRL's, before its own `__post_init__`. It is changed in place.
        parent (`type`):
            TRL's class.
    """
    default = parent.gradient_checkpointing
    if args.activation_checkpointing is None and args.gradient_checkpointing == default:
        args.activation_checkpointing = default
