"""Which segments matter to the answer: quadrature, scorers, runner, cost. No trl."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


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

# The settings are read without torch, which everything else needs
_NAMES = {
    "config": ("AttributionConfig",),
    "cost": ("CostEstimate", "estimate_cost"),
    "quadrature": ("RULES",),
    "runner": ("AttributionSummary", "attribute_traces", "make_scorer"),
    "scorers": (
        "SCORERS",
        "Attribution",
        "BackwardSweep",
        "CounterfactualSweep",
        "IntegratedGradients",
        "RecursiveAttribution",
        "Scorer",
    ),
    "settings": ("attribution_settings", "planned_settings"),
    "tokens": ("attribute_tokens",),
}

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
