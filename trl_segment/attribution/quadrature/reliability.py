"""How far an integral can be trusted: what the nodes that were evaluated say of one another, and of completeness."""

import itertools
from collections.abc import Sequence

import numpy as np

from ...selection import Reliability, attribution_strength, strongest_prefix
from .base import Evaluation


# Share of the strength that kept segments reach, where the selections of two halves are compared
_TAU = 0.7


class SampledPath:
    """
    What is known of a path: F at both ends, F and the integrand at nodes in between.

    Args:
        ends (`tuple[float, float]`):
            F of the baseline and of the input, in nats.
        nodes (`Sequence[float]`):
            Nodes in [0, 1], at least one, in any order.
        evaluations (`Sequence[Evaluation]`):
            F and the integrand at each.

    Attributes:
        edges (`np.ndarray`):
            0, the nodes in order, 1: the ends of the panels, shape (panels + 1,).
        widths (`np.ndarray`):
            Widths of the panels, shape (panels,).
        changes (`np.ndarray`):
            Absolute change of F over each panel, in nats, shape (panels,).
        means (`np.ndarray`):
            Mean of the integrands at a panel's two ends, shape (panels, tokens). No gradient is known at the ends of
            the path, so that the outermost one stands for it.
        masses (`np.ndarray`):
            L1 norm of each panel's trapezoid, in nats, shape (panels,).
        cosines (`np.ndarray`):
            Cosine of the integrands at a panel's two ends, shape (panels,).
        differences (`np.ndarray`):
            L1 norm of half the difference between its two ends' integrands, times its width, shape (panels,).
    """

    def __init__(self, ends: tuple[float, float], nodes: Sequence[float], evaluations: Sequence[Evaluation]):
        order = np.argsort(np.asarray(nodes, dtype=np.float64), kind="stable")
        self.ends, self.nodes = ends, np.asarray(nodes, dtype=np.float64)[order]
        self.evaluations = [evaluations[i] for i in order]
        integrands = np.stack([evaluation.integrand for evaluation in self.evaluations])
        integrands = np.concatenate([integrands[:1], integrands, integrands[-1:]])
        self.edges = np.concatenate([[0.0], self.nodes, [1.0]])
        self.widths = np.diff(self.edges)
        values = [ends[0], *(evaluation.value for evaluation in self.evaluations), ends[1]]
        self.changes = np.abs(np.diff(values))
        self.means = (integrands[1:] + integrands[:-1]) / 2
        self.masses = self.widths * np.abs(self.means).sum(axis=1)
        self.cosines = np.array([_correlation(one, two) for one, two in itertools.pairwise(integrands)])
        self.differences = self.widths * np.abs(np.diff(integrands, axis=0)).sum(axis=1) / 2

    def half(self, which: int) -> "SampledPath":
        """Every other node, from number `which` on."""
        return SampledPath(self.ends, self.nodes[which::2].tolist(), self.evaluations[which::2])

    def plain(self) -> np.ndarray:
        """Trapezoids between neighbors, shape (tokens,): for uniform midpoints this is the midpoint rule."""
        return self.widths @ self.means

    def bounded(self, alike: float) -> np.ndarray:
        """
        The same, but where a panel's ends are no more alike than noise its L1 norm is at most the change of F in it.

        F comes free with each gradient and is far less noisy: a panel of pure noise moves it little, whatever the size
        of its gradients.

        Args:
            alike (`float`):
                Cosine of the integrands at a panel's two ends under which the panel is noise.

        Returns:
            `np.ndarray`: Attributions in nats, shape (tokens,).
        """
        noisy = self.cosines < alike
        # The panels at the ends have one node only: they are judged with their neighbours
        noisy[0], noisy[-1] = noisy[1], noisy[-2]
        share = np.minimum(1, self.changes / np.maximum(self.masses, np.finfo(float).tiny))
        return (self.widths * np.where(noisy, share, 1.0)) @ self.means


def are_finite(ends: tuple[float, float], evaluations: Sequence[Evaluation]) -> bool:
    """
    Whether F and all integrands are finite.

    Args:
        ends (`tuple[float, float]`):
            F of the baseline and of the input.
        evaluations (`Sequence[Evaluation]`):
            F and the integrand at the nodes.

    Returns:
        `bool`: Whether they are, at both ends and at all nodes.
    """
    values = [*ends, *(evaluation.value for evaluation in evaluations)]
    return bool(np.isfinite(values).all()) and all(np.isfinite(e.integrand).all() for e in evaluations)


def assess(path: SampledPath, segments: Sequence[tuple[int, int]], alike: float | None = None) -> Reliability:
    """
    How far the integral over a path can be trusted.

    Args:
        path ([`SampledPath`]):
            What was evaluated; at least two nodes.
        segments (`Sequence[tuple[int, int]]`):
            Token spans; may be empty.
        alike (`float`, *optional*):
            See [`SampledPath.bounded`]. By default no panel of the two halves is bounded.

    Returns:
        [`Reliability`]: The diagnostics; all NaN where something is not finite or there is one node only.
    """
    if len(path.nodes) < 2 or not are_finite(path.ends, path.evaluations):
        return Reliability(*[float("nan")] * 5)
    plain, total = path.plain(), path.ends[1] - path.ends[0]
    halves = path.half(0), path.half(1)
    odd, even = (half.plain() if alike is None else half.bounded(alike) for half in halves)
    r = _correlation(odd, even)
    return Reliability(
        gap=_share(abs(plain.sum() - total), abs(total)),
        l1=_share(np.abs(plain).sum(), abs(total)),
        variation=_share(path.changes.sum(), abs(total)),
        halves_correlation=2 * r / (1 + r) if r > 0 else r,
        halves_agreement=jaccard(_kept(odd, segments), _kept(even, segments)) if segments else float("nan"),
    )


def mean_reliability(several: Sequence[Reliability]) -> Reliability:
    """
    The mean of what several integrals of one sequence say (SmoothGrad's noisy copies).

    Args:
        several (`Sequence[Reliability]`):
            At least one.

    Returns:
        [`Reliability`]: Field by field.
    """
    return Reliability(*np.mean([tuple(vars(one).values()) for one in several], axis=0).tolist())


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """
    Jaccard index of two selections.

    Args:
        first (`np.ndarray`):
            Kept segments, bool, shape (segments,).
        second (`np.ndarray`):
            Those to compare with, of the same shape.

    Returns:
        `float`: Kept by both as a share of kept by any; 1 if neither keeps one.
    """
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation about zero, so that it means something for one token too; two zeros agree."""
    scale = np.sqrt((first @ first) * (second @ second))
    if scale == 0:
        return float(not first.any() and not second.any())
    return float(np.clip(first @ second / scale, -1, 1))


def _kept(attributions: np.ndarray, segments: Sequence[tuple[int, int]]) -> np.ndarray:
    """The strongest segments, whatever their direction."""
    sum_abs = np.array([np.abs(attributions[start:end]).sum() for start, end in segments])
    lengths = np.array([end - start for start, end in segments])
    return strongest_prefix(attribution_strength(sum_abs, lengths), _TAU)


def _share(part: float, whole: float) -> float:
    """`part / whole` for a whole that may be zero."""
    if whole > 0:
        return float(part / whole)
    return 0.0 if part == 0 else float("inf")
