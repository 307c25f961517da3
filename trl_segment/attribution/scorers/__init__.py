"""Scorers: Integrated Gradients, leave-one-out sweeps, and what the paper compares with. One class each, one table."""

from .base import SCORERS, Attribution, Scorer
from .comparisons import (
    AnswerAttention,
    FirstCorrect,
    NecessityAndSufficiency,
    OpeningSurprisal,
    RestPerplexity,
    VerificationOpener,
)
from .integrated_gradients import IntegratedGradients
from .predictions import (
    ConfidenceGain,
    Entropy,
    GradientTimesInput,
    Perplexity,
    RandomScores,
    without_reasoning,
)
from .recursive import RecursiveAttribution
from .sweeps import BackwardSweep, CounterfactualSweep


__all__ = [
    "SCORERS",
    "AnswerAttention",
    "Attribution",
    "BackwardSweep",
    "ConfidenceGain",
    "CounterfactualSweep",
    "Entropy",
    "FirstCorrect",
    "GradientTimesInput",
    "IntegratedGradients",
    "NecessityAndSufficiency",
    "OpeningSurprisal",
    "Perplexity",
    "RandomScores",
    "RecursiveAttribution",
    "RestPerplexity",
    "Scorer",
    "VerificationOpener",
    "without_reasoning",
]
