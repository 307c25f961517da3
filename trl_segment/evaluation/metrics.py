"""
Figures of an evaluation: accuracy, pass@k, output lengths, and differences between models, with bootstrap intervals.

Everything here is arithmetic on arrays of shape (problems, samples). What is resampled are problems: they are what the
figures shall hold for, while the samples of one problem are no independent evidence.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """
    A figure and its 95 % bootstrap interval.

    Args:
        value (`float`):
            The figure.
        low (`float`):
            Its 2.5 % quantile over resampled problems.
        high (`float`):
            Its 97.5 % quantile.
    """

    value: float
    low: float
    high: float


def bootstrap(sets: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0) -> Estimate:
    """
    Mean over problems, averaged over problem sets, with an interval.

    Args:
        sets (`Sequence[np.ndarray]`):
            A number per problem for each set, shape (problems,). Problems are resampled within their set.
        resamples (`int`, *optional*, defaults to `2000`):
            Number of resamples.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resampling.

    Returns:
        [`Estimate`]: `nan` throughout if a set is empty.
    """
    if not sets or any(len(values) == 0 for values in sets):
        return Estimate(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for values in sets:
        values = np.asarray(values, dtype=np.float64)
        # A resample is how often each problem is drawn: counts need no (resamples, problems) array of indices
        counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
        means += counts @ values / len(values)
    low, high = np.quantile(means / len(sets), [0.025, 0.975])
    return Estimate(float(np.mean([np.mean(values) for values in sets])), float(low), float(high))


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """
    Probability that at least one of `k` outputs is right, estimated without bias from `n >= k` outputs
    (arXiv 2107.03374, equation 1).

    Args:
        correct (`np.ndarray`):
            Whether each output is right, shape (problems, samples).
        k (`int`):
            Number of outputs.

    Returns:
        `np.ndarray`: Shape (problems,).

    Raises:
        `ValueError`: If there are fewer than `k` samples.
    """
    correct = np.asarray(correct, dtype=bool)
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} takes at least {k} samples per problem, but there are {n}.")
    return np.array([1 - comb(n - int(right), k) / comb(n, k) for right in correct.sum(axis=1)])


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... up to `n`, and `n` itself."""
    return sorted({n, *(2**i for i in range(n.bit_length()))} if n > 0 else set())


@dataclass(frozen=True)
class Figures:
    """
    What one model's outputs amount to.

    Args:
        problems (`int`):
            Number of problems.
        samples (`int`):
            Outputs per problem.
        accuracy ([`Estimate`]):
            Share of right outputs.
        pass_at ([`dict[int, Estimate]`]):
            pass@k for powers of two up to the number of samples.
        mean_tokens ([`Estimate`] or `None`):
            Mean output length in tokens, `None` where lengths are unknown.
        median_tokens (`float` or `None`):
            Median output length.
        cut_off ([`Estimate`] or `None`):
            Share of outputs that the length limit ended.
        verdicts (`dict[str, int]`):
            How many outputs got which verdict.
    """

    problems: int
    samples: int
    accuracy: Estimate
    pass_at: dict[int, Estimate]
    mean_tokens: Estimate | None
    median_tokens: float | None
    cut_off: Estimate | None
    verdicts: dict[str, int]

    def to_dict(self) -> dict:
        """JSON-compatible."""
        return asdict(self)


@dataclass(frozen=True)
class Graded:
    """
    Graded outputs of one model on one problem set.

    Args:
        ids (`list[str]`):
            Problems.
        correct (`np.ndarray`):
            Whether each output is right, shape (problems, samples).
        verdicts (`list[list[str]]`):
            Verdict of each output, by problem.
        tokens (`np.ndarray` or `None`):
            Length of each output in tokens, shape (problems, samples).
        cut_off (`np.ndarray` or `None`):
            Whether the length limit ended each output, shape (problems, samples).
    """

    ids: list[str]
    correct: np.ndarray
    verdicts: list[list[str]]
    tokens: np.ndarray | None = None
    cut_off: np.ndarray | None = None


def summarize(sets: Sequence[Graded]) -> Figures:
    """
    Figures of one problem set, or of several, each of which then counts the same (as in the paper's tables).

    Args:
        sets (`Sequence[Graded]`):
            One model's graded outputs.

    Returns:
        [`Figures`]: The figures. pass@k goes as far as every set has samples.
    """
    samples = min(graded.correct.shape[1] for graded in sets)
    verdicts: dict[str, int] = {}
    for graded in sets:
        for row in graded.verdicts:
            for verdict in row:
                verdicts[verdict] = verdicts.get(verdict, 0) + 1

    def estimate(name):
        arrays = [getattr(graded, name) for graded in sets]
        return None if any(array is None for array in arrays) else bootstrap([a.mean(axis=1) for a in arrays])

    known = all(graded.tokens is not None for graded in sets)
    return Figures(
        problems=sum(len(graded.ids) for graded in sets),
        samples=samples,
        accuracy=estimate("correct"),
        pass_at={k: bootstrap([pass_at_k(graded.correct, k) for graded in sets]) for k in powers_of_two(samples)},
        mean_tokens=estimate("tokens"),
        median_tokens=float(np.mean([np.median(graded.tokens) for graded in sets])) if known else None,
        cut_off=estimate("cut_off"),
        verdicts=verdicts,
    )


def paired_difference(first: Sequence[Graded], second: Sequence[Graded]) -> dict[str, Estimate | int | None]:
    """
    How a second model differs from a first one on the same problems.

    Args:
        first (`Sequence[Graded]`):
            Graded outputs by problem set.
        second (`Sequence[Graded]`):
            Those of the other model, of the same sets in the same order. The numbers of samples may differ.

    Returns:
        `dict`: `accuracy`, `tokens` and `cut_off` as [`Estimate`]s of second minus first over problems that both have,
        and `problems`, their number. `None` for what is not known of both, or where a set has no problem in common.
    """
    shared = [sorted(set(a.ids) & set(b.ids)) for a, b in zip(first, second, strict=True)]

    def differences(name):
        parts = []
        if not all(shared):
            return None
        for a, b, ids in zip(first, second, shared, strict=True):
            if getattr(a, name) is None or getattr(b, name) is None:
                return None
            mean_a, mean_b = (dict(zip(s.ids, getattr(s, name).mean(axis=1), strict=True)) for s in (a, b))
            parts.append(np.array([mean_b[i] - mean_a[i] for i in ids]))
        return bootstrap(parts)

    return {
        "problems": sum(map(len, shared)),
        "accuracy": differences("correct"),
        "tokens": differences("tokens"),
        "cut_off": differences("cut_off"),
    }
