"""The TRL-facing classes. With `cli/` the only floor that imports trl."""

from .callback import SegmentAttributionCallback
from .config import SegmentSelectiveSFTConfig
from .data_collator import DataCollatorForSegmentSelectiveLM
from .grpo_config import SegmentWeightedGRPOConfig
from .grpo_trainer import SegmentWeightedGRPOTrainer
from .segment_table import SegmentTable, SelectionSummary
from .sft_trainer import SegmentSelectiveSFTTrainer


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
