"""Which segments matter to the answer: quadrature, scorers, runner, cost. No trl."""

from .config import AttributionConfig
from .cost import CostEstimate, estimate_cost
from .quadrature import RULES
from .runner import AttributionSummary, attribute_traces, make_scorer
from .scorers import (
    SCORERS,
    Attribution,
    BackwardSweep,
    CounterfactualSweep,
    IntegratedGradients,
    RecursiveAttribution,
    Scorer,
)
from .settings import attribution_settings, planned_settings
from .tokens import attribute_tokens


__all__ = [
    "RULES",
    "SCORERS",
    "Attribution",
    "AttributionConfig",
    "AttributionSummary",
    "BackwardSweep",
    "CostEstimate",
    "CounterfactualSweep",
    "IntegratedGradients",
    "RecursiveAttribution",
    "Scorer",
    "attribute_tokens",
    "attribute_traces",
    "attribution_settings",
    "estimate_cost",
    "make_scorer",
    "planned_settings",
]
