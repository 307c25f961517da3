"""Adaptive Simpson quadrature, steered by completeness."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .base import Evaluation, Integral, Steps


@dataclass(eq=False)
class _Panel:
    """Simpson's rule on [start, end], and how wrong it is."""

    start: float
    end: float
    ends: tuple[Evaluation, Evaluation, Evaluation]
    integral: np.ndarray = field(init=False)
    error: np.ndarray = field(init=False)
    defect: float = field(init=False)

    def __post_init__(self) -> None:
        first, middle, last = self.ends
        width = self.end - self.start
        self.integral = width / 6 * (first.integrand + 4 * middle.integrand + last.integrand)
        difference = self.integral - width / 4 * (first.integrand + 2 * middle.integrand + last.integrand)
        # The sum over tokens is known exactly: it is the increase of F. That tells how much of the difference to the
        # trapezoid rule is error, and with which sign; token by token the difference gives only the pattern.
        defect = self.integral.sum() - (last.value - first.value)
        spread = difference.sum()
        share = np.clip(defect / spread, -1, 1) if abs(spread) > 1e-300 else np.sign(defect)
        self.error = difference * share
        self.defect = abs(float(defect))

    @property
    def priority(self) -> float:
        """What bisecting it promises: the summed absolute error, at least as much as the sum proves."""
        return max(float(np.abs(self.error).sum()), self.defect)


def adaptive_simpson(
    evaluations: int,
    tolerance: float = 0.01,
    settled: Callable[[np.ndarray, list[np.ndarray]], bool] | None = None,
    panels: int = 4,
) -> Steps:
    """
    Simpson's rule on panels, bisecting the worst panel until the integral is good enough.

    Completeness holds on every panel: the integrand's sum over tokens integrates to the increase of F, and F comes
    free with each gradient. So each panel's error is measured, not guessed.

    Args:
        evaluations (`int`):
            Cap on gradient evaluations, at least `2 * panels + 1`.
        tolerance (`float`, *optional*, defaults to `0.01`):
            Stop when the panels' defects add up to at most this share of `|F(input) - F(baseline)|`.
        settled (`Callable`, *optional*):
            Takes the attributions, shape (tokens,), and the estimated error of each panel, and says whether what they
            are for is decided. Stop when it does, three rounds of the same answer and a defect under a fifth provided.
        panels (`int`, *optional*, defaults to `4`):
            Panels to start with.

    Yields:
        `list[float]`: Nodes to evaluate.

    Returns:
        [`Integral`]: With the summed defect, and which of tolerance, decision and cap ended it.
    """
    nodes = np.linspace(0, 1, 2 * panels + 1).tolist()
    values = yield nodes
    pieces = [
        _Panel(nodes[i], nodes[i + 2], (values[i], values[i + 1], values[i + 2])) for i in range(0, 2 * panels, 2)
    ]
    spent = len(nodes)
    total = abs(values[-1].value - values[0].value)
    while True:
        attributions = sum((piece.integral for piece in pieces), np.zeros_like(pieces[0].integral))
        defect = sum(piece.defect for piece in pieces)
        if not np.isfinite(defect):
            stopped_by = "not finite"
            break
        if defect <= tolerance * total:
            stopped_by = "tolerance"
            break
        if settled is not None and settled(attributions, [piece.error for piece in pieces]) and defect <= 0.2 * total:
            stopped_by = "decision"
            break
        if spent + 2 > evaluations:
            stopped_by = "cap"
            break
        worst = max(pieces, key=lambda piece: piece.priority)
        middle = (worst.start + worst.end) / 2
        left, right = yield [(worst.start + middle) / 2, (middle + worst.end) / 2]
        spent += 2
        first, centre, last = worst.ends
        pieces.remove(worst)
        pieces += [
            _Panel(worst.start, middle, (first, left, centre)),
            _Panel(middle, worst.end, (centre, right, last)),
        ]
    return Integral(attributions, spent, stopped_by, defect)
