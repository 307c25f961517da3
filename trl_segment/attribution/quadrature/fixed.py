"""Rules with nodes and weights that are known beforehand."""

import numpy as np

from .base import Integral, Steps


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

    Where `|dF/dalpha|` is concentrated is much the same for all traces of a model, so a density learned on a few of
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
