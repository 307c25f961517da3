"""
trl-segment: fine-tune reasoning models only on the segments of a chain of thought that matter to the answer.

Names are loaded when they are first used, so that importing the package imports neither torch nor trl.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names


__version__ = "0.1.0.dev0"

__all__ = [
    "AttributionConfig",
    "AttributionStore",
    "DataCollatorForSegmentSelectiveLM",
    "IntegratedGradients",
    "SegmentAttributionCallback",
    "SegmentSelectiveSFTConfig",
    "SegmentSelectiveSFTTrainer",
    "SegmentWeightedGRPOConfig",
    "SegmentWeightedGRPOTrainer",
    "SelectionConfig",
    "Trace",
    "TraceConfig",
    "attribute_traces",
    "build_trace",
    "open_store",
    "push_store",
    "segment_text",
    "select_segments",
]

_NAMES = {
    "attribution": ("AttributionConfig", "IntegratedGradients", "attribute_traces"),
    "selection": ("SelectionConfig", "select_segments"),
    "store": ("AttributionStore", "open_store", "push_store"),
    "traces": ("Trace", "TraceConfig", "build_trace", "segment_text"),
    "trainer": (
        "DataCollatorForSegmentSelectiveLM",
        "SegmentAttributionCallback",
        "SegmentSelectiveSFTConfig",
        "SegmentSelectiveSFTTrainer",
        "SegmentWeightedGRPOConfig",
        "SegmentWeightedGRPOTrainer",
    ),
}

if TYPE_CHECKING:
    from .attribution import AttributionConfig, IntegratedGradients, attribute_traces
    from .selection import SelectionConfig, select_segments
    from .store import AttributionStore, open_store, push_store
    from .traces import Trace, TraceConfig, build_trace, segment_text
    from .trainer import (
        DataCollatorForSegmentSelectiveLM,
        SegmentAttributionCallback,
        SegmentSelectiveSFTConfig,
        SegmentSelectiveSFTTrainer,
        SegmentWeightedGRPOConfig,
        SegmentWeightedGRPOTrainer,
    )

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
