"""What a rule is: it asks for nodes, is sent the integrand there, and returns the integral."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from .reliability import Reliability


@dataclass(frozen=True)
class Evaluation:
    """
    The integrand at one node.

    Args:
        value (`float`):
            F at the node, in nats.
        integrand (`np.ndarray`):
            Gradient times (input - baseline), summed over the embedding dimension, shape (tokens,), float64.
    """

    value: float
    integrand: np.ndarray


@dataclass(frozen=True)
class Integral:
    """
    What a rule makes of its evaluations.

    Args:
        attributions (`np.ndarray`):
            Integral of the integrand over [0, 1], shape (tokens,), float64.
        evaluations (`int`):
            Number of gradient evaluations spent.
        stopped_by (`str`):
            Why no more were spent: `"nodes"` for a rule with fixed nodes; `"settled"` or `"not settled"` for
            `"hybrid"`; `"tolerance"`, `"decision"` or `"cap"` for `"simpson"`; or `"not finite"` where the model gave
            NaN or infinity.
        defect (`float`, *optional*):
            Quadrature error of the sum of all attributions, in nats: for an adaptive rule the errors of its panels
            added up regardless of sign. NaN where the rule does not know F at both ends.
        gap (`float`, *optional*):
            Sum of the plain quadrature minus the change of F, in nats, where the attributions are not that sum.
        reliability ([`~trl_segment.attribution.quadrature.Reliability`], *optional*):
            How far the integral can be trusted, from rules that look at it themselves.
    """

    attributions: np.ndarray
    evaluations: int
    stopped_by: str
    defect: float = float("nan")
    gap: float = float("nan")
    reliability: "Reliability | None" = None


# A rule in action: yields nodes, is sent their evaluations, returns the integral.
Steps = Generator[list[float], list[Evaluation], Integral]


@dataclass(frozen=True)
class RuleInputs:
    """
    What a rule is given for one sequence. Each takes what it needs.

    Args:
        evaluations (`int`):
            Gradient evaluations to spend, or for an adaptive rule the cap.
        tolerance (`float`, *optional*, defaults to `0.01`):
            See [`adaptive_simpson`].
        settled (`Callable`, *optional*):
            See [`adaptive_simpson`].
        density (`np.ndarray`, *optional*):
            See [`density_midpoints`].
        ends (`tuple[float, float]`, *optional*):
            F of the baseline and of the input, in nats.
        segments (`Sequence[tuple[int, int]]`, *optional*):
            Token spans of the segments.
    """

    evaluations: int
    tolerance: float = 0.01
    settled: Callable[[np.ndarray, list[np.ndarray]], bool] | None = None
    density: np.ndarray | None = None
    ends: tuple[float, float] | None = None
    segments: Sequence[tuple[int, int]] = ()
