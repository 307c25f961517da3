"""
Rules for the path integral of Integrated Gradients. A rule asks for nodes and turns what it gets into an integral;
it knows no model, and the engine knows no rule by name.

The integrand at a node `alpha` in [0, 1] is one number per token: the inner product of the gradient of F with
(input - baseline). Its sum over tokens is dF/dalpha.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np


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
            Why no more were spent: `"nodes"` for a rule with fixed nodes, for an adaptive one `"tolerance"`,
            `"decision"` or `"cap"`, or `"not finite"` where the model gave NaN or infinity.
        defect (`float`):
            Quadrature error of the sum of all attributions, in nats: for an adaptive rule the errors of its panels
            added up regardless of sign. What is known without nodes at both ends is `nan`.
    """

    attributions: np.ndarray
    evaluations: int
    stopped_by: str
    defect: float = float("nan")


# A rule in action: yields nodes, is sent their evaluations, returns the integral.
Steps = Generator[list[float], list[Evaluation], Integral]


def paper(evaluations: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The published procedure: `linspace(0, 1, n)`, gradients averaged, so that both ends count in full.

    Args:
        evaluations (`int`):
            Number of nodes, at least 2. The paper uses 50.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Nodes and weights, shape (evaluations,).
    """
    return np.linspace(0, 1, evaluations), np.full(evaluations, 1 / evaluations)


def midpoint(evaluations: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The middles of equal panels.

    Args:
        evaluations (`int`):
            Number of nodes.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Nodes and weights, shape (evaluations,).
    """
    return (np.arange(evaluations) + 0.5) / evaluations, np.full(evaluations, 1 / evaluations)


def trapezoid(evaluations: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Equidistant nodes, both ends at half weight.

    Args:
        evaluations (`int`):
            Number of nodes, at least 2.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Nodes and weights, shape (evaluations,).
    """
    weights = np.full(evaluations, 1 / (evaluations - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, evaluations), weights


def gauss_legendre(evaluations: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Gauss-Legendre quadrature, exact for polynomials up to degree `2 * evaluations - 1`.

    Args:
        evaluations (`int`):
            Number of nodes.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Nodes and weights, shape (evaluations,).
    """
    nodes, weights = np.polynomial.legendre.leggauss(evaluations)
    return (nodes + 1) / 2, weights / 2


def density_midpoints(density: np.ndarray, evaluations: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The midpoint rule in a coordinate in which the integrand is spread evenly.

    Where `|dF/dalpha|` is concentrated is much the same for all traces of a model, so a density learnt on a few of
    them places the nodes for the others.

    Args:
        density (`np.ndarray`):
            Share of the mass of `|dF|` in equal cells of [0, 1], shape (cells,), not negative. A tenth of uniform
            mass is mixed in, so that no part of the path goes unseen.
        evaluations (`int`):
            Number of nodes.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Nodes and weights, shape (evaluations,).
    """
    density = np.asarray(density, dtype=np.float64)
    density = 0.9 * density / density.sum() + 0.1 / len(density)
    cumulative = np.concatenate([[0.0], np.cumsum(density)])
    edges = np.linspace(0, 1, len(density) + 1)
    nodes = np.interp((np.arange(evaluations) + 0.5) / evaluations, cumulative, edges)
    bounds = np.interp(np.arange(evaluations + 1) / evaluations, cumulative, edges)
    return nodes, np.diff(bounds)


FIXED_RULES = {"paper": paper, "midpoint": midpoint, "trapezoid": trapezoid, "gauss_legendre": gauss_legendre}
RULES = ("simpson", "density", *FIXED_RULES)


def integrate_fixed(nodes: np.ndarray, weights: np.ndarray) -> Steps:
    """
    Integrate with given nodes and weights.

    Args:
        nodes (`np.ndarray`):
            Nodes in [0, 1], shape (evaluations,).
        weights (`np.ndarray`):
            Weights, shape (evaluations,).

    Yields:
        `list[float]`: All nodes, at once.

    Returns:
        [`Integral`]: The weighted sum.
    """
    evaluations = yield nodes.tolist()
    attributions = np.tensordot(weights, np.stack([e.integrand for e in evaluations]), axes=1)
    return Integral(attributions, len(nodes), "nodes")


@dataclass(eq=False)
class _Panel:
    """Simpson's rule on [start, end], and how wrong it is."""

    start: float
    end: float
    ends: tuple[Evaluation, Evaluation, Evaluation]
    integral: np.ndarray = field(init=False)
    error: np.ndarray = field(init=False)
    defect: float = field(init=False)

    def __post_init__(self):
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
    pieces = [_Panel(nodes[i], nodes[i + 2], tuple(values[i : i + 3])) for i in range(0, 2 * panels, 2)]
    spent = len(nodes)
    total = abs(values[-1].value - values[0].value)
    while True:
        attributions = sum(piece.integral for piece in pieces)
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


def check_rule(rule: str, evaluations: int | None) -> None:
    """
    Raise a `ValueError` if there is no such rule, or it cannot work with that many evaluations.

    Args:
        rule (`str`):
            One of [`RULES`].
        evaluations (`int` or `None`):
            Number of gradient evaluations; `None` is the rule's default.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown quadrature rule {rule!r}. Pass one of {', '.join(map(repr, RULES))}.")
    least = {"paper": 2, "trapezoid": 2, "simpson": 9}.get(rule, 1)
    if evaluations is not None and evaluations < least:
        raise ValueError(
            f"The rule {rule!r} needs at least {least} gradient evaluations per trace, but {evaluations} were asked "
            "for. The paper uses 50."
        )


def default_evaluations(rule: str) -> int:
    """
    Evaluations of a rule that was given none: the paper's 50, a cap of 64 for `"simpson"`, 32 for `"density"`.

    Args:
        rule (`str`):
            One of [`RULES`].

    Returns:
        `int`: Number of gradient evaluations.
    """
    return {"simpson": 64, "density": 32}.get(rule, 50)
