"""
Rules for the path integral of Integrated Gradients. A rule asks for nodes and turns what it gets into an integral;
it knows no model, and the engine knows no rule by name.

The integrand at a node `alpha` in [0, 1] is one number per token: the inner product of the gradient of F with
(input - baseline). Its sum over tokens is dF/dalpha.
"""

from collections.abc import Generator
from dataclasses import dataclass

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
            Why no more were spent: `"nodes"` for a rule with fixed nodes.
    """

    attributions: np.ndarray
    evaluations: int
    stopped_by: str


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


_FIXED_RULES = {"paper": paper, "midpoint": midpoint, "trapezoid": trapezoid, "gauss_legendre": gauss_legendre}
RULES = tuple(_FIXED_RULES)


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


def check_rule(rule: str, evaluations: int) -> None:
    """
    Raise a `ValueError` if there is no such rule, or it cannot work with that many evaluations.

    Args:
        rule (`str`):
            One of [`RULES`].
        evaluations (`int`):
            Number of gradient evaluations.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown quadrature rule {rule!r}. Pass one of {', '.join(map(repr, RULES))}.")
    least = 2 if rule in ("paper", "trapezoid") else 1
    if evaluations < least:
        raise ValueError(
            f"The rule {rule!r} needs at least {least} gradient evaluations per trace, but {evaluations} were asked "
            "for. The paper uses 50."
        )


def start_rule(rule: str, evaluations: int) -> Steps:
    """
    Start a rule by name.

    Args:
        rule (`str`):
            One of [`RULES`].
        evaluations (`int`):
            Number of gradient evaluations.

    Returns:
        `Generator`: See [`Steps`].

    Raises:
        `ValueError`: As [`check_rule`].
    """
    check_rule(rule, evaluations)
    return integrate_fixed(*_FIXED_RULES[rule](evaluations))
