"""The TRL-facing classes. With `cli/` the only floor that imports trl."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


__all__ = [
    "DataCollatorForSegmentSelectiveLM",
    "SegmentAttributionCallback",
    "SegmentSelectiveSFTConfig",
    "SegmentSelectiveSFTTrainer",
    "SegmentTable",
    "SegmentWeightedGRPOConfig",
    "SegmentWeightedGRPOTrainer",
    "SelectionSummary",
]

# The options are read without TRL and torch, which everything else needs
_NAMES = {
    "callback": ("SegmentAttributionCallback",),
    "config": ("SegmentSelectiveSFTConfig",),
    "data_collator": ("DataCollatorForSegmentSelectiveLM",),
    "grpo_config": ("SegmentWeightedGRPOConfig",),
    "grpo_trainer": ("SegmentWeightedGRPOTrainer",),
    "segment_table": ("SegmentTable", "SelectionSummary"),
    "sft_trainer": ("SegmentSelectiveSFTTrainer",),
}

if TYPE_CHECKING:
    from .callback import SegmentAttributionCallback
    from .config import SegmentSelectiveSFTConfig
    from .data_collator import DataCollatorForSegmentSelectiveLM
    from .grpo_config import SegmentWeightedGRPOConfig
    from .grpo_trainer import SegmentWeightedGRPOTrainer
    from .segment_table import SegmentTable, SelectionSummary
    from .sft_trainer import SegmentSelectiveSFTTrainer

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
