"""Accuracy and output length of models: decoding, grading, figures with intervals."""

from .grading import Grader, Verdict
from .metrics import Estimate, Figures, Graded, bootstrap, paired_difference, pass_at_k, summarize


__all__ = [
    "Estimate",
    "Figures",
    "Graded",
    "Grader",
    "Verdict",
    "bootstrap",
    "paired_difference",
    "pass_at_k",
    "summarize",
]
