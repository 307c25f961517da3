"""
The hybrid rule: uniform midpoints first, then nodes where the integrand asks for them, until two halves agree.

No single rule is best on every model. Where an integrand is smooth, or rough but resolved, plain sums of evenly
spread nodes converge best. Where half precision puts noise of the size of the integrand on every node, and one step of
F holds the mass, nodes have to go to the step, and what the noise adds elsewhere has to be bounded. The rule finds out
which is which from the gradients it has, and says how far its result can be trusted.
"""

from collections.abc import Sequence

import numpy as np

from .base import Evaluation, Integral, Steps
from .reliability import Reliability, SampledPath, are_finite, assess


# Nodes at the start, and nodes between two checks
START, STEP = 8, 4
# Gradients at a panel's two ends with a cosine under this are no more alike than noise is: the panel's L1 norm
# is then noise as much as integrand
ALIKE = 0.15


def hybrid(
    evaluations: int,
    ends: tuple[float, float],
    segments: Sequence[tuple[int, int]] = (),
    settle: bool = True,
    allowed: Sequence[float] | None = None,
    first: Sequence[float] | None = None,
) -> Steps:
    """
    Uniform midpoints, then nodes where the integrand needs them, until two halves of the nodes agree.

    The first eight nodes are the middles of equal panels, four more come in each round. They bisect the panels with
    the largest sum of three shares: of the change of F (known at every node and at both ends), of the difference
    between the gradients of a panel's two ends, and of the path's length. The attributions are trapezoids between
    neighboring nodes; where the gradients of two neighbors are no more alike than noise, a trapezoid's L1 norm is
    bounded by the change of F, of which each evaluation has an independent value.

    Args:
        evaluations (`int`):
            Cap on gradient evaluations, at least 8.
        ends (`tuple[float, float]`):
            F of the baseline and of the input, in nats.
        segments (`Sequence[tuple[int, int]]`, *optional*, defaults to `()`):
            Token spans of the segments that the attributions are to choose from. Without any the halves are compared
            token by token only.
        settle (`bool`, *optional*, defaults to `True`):
            Stop as soon as the integral has settled. If `False`, all evaluations are spent.
        allowed (`Sequence[float]`, *optional*):
            The only nodes to choose from, in (0, 1), where integrands were recorded. Any by default.
        first (`Sequence[float]`, *optional*):
            Nodes to begin with, in place of the eight midpoints.

    Yields:
        `list[float]`: Nodes to evaluate, 8 at first, then up to 4 at a time.

    Returns:
        [`Integral`]: `stopped_by` is `"settled"`, `"not settled"` where the cap or the allowed nodes ran out first, or
        `"not finite"`. Since panels may be bounded, the attributions need not sum to the change of F; `gap` is that of
        the plain sum over the same nodes.
    """
    grid = None if allowed is None else np.sort(np.asarray(allowed, dtype=np.float64))
    asked = _first_nodes(grid) if first is None else list(first)
    nodes: list[float] = []
    values: list[Evaluation] = []
    while True:
        values += yield asked
        nodes += asked
        if not are_finite(ends, values):
            nothing = np.full_like(values[0].integrand, np.nan)
            return Integral(nothing, len(nodes), "not finite", reliability=Reliability(*[float("nan")] * 5))
        path = SampledPath(ends, nodes, values)
        reliability = assess(path, segments, ALIKE)
        asked = _next_nodes(path, min(STEP, evaluations - len(nodes)), grid)
        if (settle and reliability.settled) or not asked:
            gap = float(path.plain().sum() - (ends[1] - ends[0]))
            stopped_by = "settled" if reliability.settled else "not settled"
            return Integral(path.bounded(ALIKE), len(nodes), stopped_by, abs(gap), gap, reliability)


def _first_nodes(allowed: np.ndarray | None) -> list[float]:
    """Midpoints of equal panels, or the nearest that are allowed."""
    middles = (np.arange(START) + 0.5) / START
    if allowed is None:
        return middles.tolist()
    return sorted({float(allowed[np.abs(allowed - middle).argmin()]) for middle in middles})


def _next_nodes(path: SampledPath, count: int, allowed: np.ndarray | None) -> list[float]:
    """The middles of the panels that matter most: where F moves, where gradients differ, and where it is wide."""
    priority = (_shares(path.changes) + _shares(path.differences) + path.widths) / 2
    panels = list(zip(priority.tolist(), path.edges[:-1].tolist(), path.edges[1:].tolist(), strict=True))
    chosen: list[float] = []
    while panels and len(chosen) < count:
        best = max(panels)
        panels.remove(best)
        weight, start, end = best
        middle = _middle(start, end, allowed)
        if middle is not None:
            chosen.append(middle)
            panels += [(weight / 2, start, middle), (weight / 2, middle, end)]
    return chosen


def _shares(values: np.ndarray) -> np.ndarray:
    total = values.sum()
    return values / total if total > 0 else values


def _middle(start: float, end: float, allowed: np.ndarray | None) -> float | None:
    if allowed is None:
        return (start + end) / 2
    inside = allowed[(allowed > start) & (allowed < end)]
    return float(inside[np.abs(inside - (start + end) / 2).argmin()]) if len(inside) else None
