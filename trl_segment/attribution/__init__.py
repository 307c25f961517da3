"""Integrated Gradients of the answer over the trace: quadrature, engine, runner, store. No trl."""

from .config import AttributionConfig
from .cost import CostEstimate, estimate_cost
from .hub import fetch_store, open_store, push_store
from .integrated_gradients import BASELINES, PATHS, Attribution, IntegratedGradients
from .marginal import BackwardSweep
from .quadrature import RULES
from .recursive import RecursiveAttribution
from .runner import AttributionSummary, attribute_traces, attribution_settings
from .scorers import SCORERS, SegmentScorer
from .store import AttributionStore, StoredAttribution
from .tokens import attribute_tokens


__all__ = [
    "BASELINES",
    "PATHS",
    "RULES",
    "SCORERS",
    "Attribution",
    "AttributionConfig",
    "AttributionStore",
    "AttributionSummary",
    "BackwardSweep",
    "CostEstimate",
    "IntegratedGradients",
    "RecursiveAttribution",
    "SegmentScorer",
    "StoredAttribution",
    "attribute_tokens",
    "attribute_traces",
    "attribution_settings",
    "estimate_cost",
    "fetch_store",
    "open_store",
    "push_store",
]
