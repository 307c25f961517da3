"""
trl-segment: fine-tune reasoning models only on the segments of a chain of thought that matter to the answer.

Names are loaded when they are first used, so that importing the package imports neither torch nor trl.
"""

import importlib
from typing import TYPE_CHECKING


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

_MODULE_OF = {
    "AttributionConfig": "attribution",
    "AttributionStore": "store",
    "IntegratedGradients": "attribution",
    "attribute_traces": "attribution",
    "SelectionConfig": "selection",
    "open_store": "store",
    "push_store": "store",
    "select_segments": "selection",
    "Trace": "traces",
    "TraceConfig": "traces",
    "build_trace": "traces",
    "segment_text": "traces",
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


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF.get(name, 'trainer')}", __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])
