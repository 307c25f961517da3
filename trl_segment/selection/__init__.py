"""From segment scores to kept segments. NumPy only: thresholds change without a model at hand."""

from .config import CONSISTENCY_SCALES, SELECTIONS, TRANSITIONS, SelectionConfig
from .reliability import Reliability, ReliabilityCount
from .scores import (
    SegmentScores,
    attribution_strength,
    consistency_above_chance,
    direction_consistency,
    sum_over_segments,
)
from .select import (
    DROPPED_BY_CHANCE,
    VERDICTS,
    Selection,
    always_trained,
    near_threshold,
    select,
    select_segments,
    strongest_prefix,
    trained_in_full,
    unit_mask,
)


__all__ = [
    "CONSISTENCY_SCALES",
    "DROPPED_BY_CHANCE",
    "SELECTIONS",
    "TRANSITIONS",
    "VERDICTS",
    "Reliability",
    "ReliabilityCount",
    "SegmentScores",
    "Selection",
    "SelectionConfig",
    "always_trained",
    "attribution_strength",
    "consistency_above_chance",
    "direction_consistency",
    "near_threshold",
    "select",
    "select_segments",
    "strongest_prefix",
    "sum_over_segments",
    "trained_in_full",
    "unit_mask",
]
