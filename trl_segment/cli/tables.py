"""Tables for the terminal: results of `tune` and `evaluate` as lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation import paired_difference, summarize
from .output import count


if TYPE_CHECKING:
    from ..evaluation import Estimate, Figures, Graded
    from ..evaluation.tuning import Agreement, Challenge, Sweep
    from ..selection import SelectionConfig


def sweep_lines(title: str, sweep: "Sweep", selection: "SelectionConfig", unit: str, traces: int) -> Iterator[str]:
    """
    A sweep over thresholds.

    Args:
        title (`str`):
            Name of the sweep.
        sweep ([`~trl_segment.evaluation.tuning.Sweep`]):
            The result.
        selection ([`~trl_segment.SelectionConfig`]):
            The pair in use, which is compared with the best.
        unit (`str`):
            Unit of the gains.
        traces (`int`):
            Number of traces.

    Yields:
        `str`: Each line.
    """
    yield f"\n{title}: gap of mean gains, kept minus dropped segments, in {unit} ({count(traces, 'trace')})"
    yield "tau \\ beta " + "".join(f"{beta:>9g}" for beta in sweep.betas)
    for i, tau in enumerate(sweep.taus):
        cells = [
            "–" if np.isnan(value) else f"{value:.3f}" if judged else f"({value:.3f})"
            for value, judged in zip(sweep.gap[i], sweep.eligible[i], strict=True)
        ]
        yield f"{tau:>10g} " + "".join(f"{cell:>9}" for cell in cells)
    if not sweep.eligible.all():
        yield "In brackets: keeps or drops fewer than a twentieth of the segments, too few to judge."
    if sweep.best is None:
        yield "No pair can be judged: there are too few segments beside the always-trained ones."
        return
    i, j = sweep.best
    held_out = sweep.best_held_out
    yield (
        f"Best: tau {sweep.taus[i]:g}, beta {sweep.betas[j]:g}, gap {sweep.gap[i, j]:.3f} "
        f"[{sweep.low[i, j]:.3f}, {sweep.high[i, j]:.3f}] (95 % bootstrap over traces); chosen and judged on "
        f"different traces {held_out.value:.3f} [{held_out.low:.3f}, {held_out.high:.3f}]."
    )
    yield (
        f"It keeps {100 * sweep.kept_segments[i, j]:.0f} % of the segments, {100 * sweep.kept_tokens[i, j]:.0f} % of "
        f"the tokens; it is the best in {100 * sweep.chosen[i, j]:.0f} % of the resamples."
    )
    yield (
        f"Flatness: {int(sweep.equal.sum())} of {int(sweep.eligible.sum())} pairs cannot be told from it. One step "
        f"away the selection overlaps {100 * sweep.overlap[i, j]:.0f} % (Jaccard; mean over all pairs "
        f"{100 * sweep.overlap.mean():.0f} %)."
    )
    if selection.tau in sweep.taus and selection.beta in sweep.betas:
        i, j = sweep.taus.index(selection.tau), sweep.betas.index(selection.beta)
        if (i, j) != sweep.best and sweep.eligible[i, j]:
            told = "cannot be told from the best" if sweep.equal[i, j] else "is worse than the best"
            yield (
                f"In use: tau {selection.tau:g}, beta {selection.beta:g}, gap {sweep.gap[i, j]:.3f} "
                f"[{sweep.low[i, j]:.3f}, {sweep.high[i, j]:.3f}], {100 * sweep.kept_segments[i, j]:.0f} % of the "
                f"segments; it {told}."
            )


def ranking_lines(sweeps: "Mapping[str, Sweep]") -> Iterator[str]:
    """
    The best pairs of several sweeps, best first.

    Args:
        sweeps (`Mapping[str, Sweep]`):
            Sweeps by title.

    Yields:
        `str`: Each line; none for one sweep.
    """
    if len(sweeps) < 2:
        return
    yield "\nBest pair of each, chosen and judged on different traces:"
    best = {title: sweep for title, sweep in sweeps.items() if sweep.best is not None}
    for title, sweep in sorted(best.items(), key=lambda item: -item[1].best_held_out.value):
        i, j = sweep.best
        yield f"  {title}: tau {sweep.taus[i]:g}, beta {sweep.betas[j]:g}, {_interval(sweep.best_held_out)}"


def challenge_sentence(challenge: "Challenge | None", selection: "SelectionConfig", unit: str) -> str:
    """
    Whether any pair is clearly better than the one in use.

    Args:
        challenge ([`~trl_segment.evaluation.tuning.Challenge`] or `None`):
            The best pair against the one in use; `None` if that one was not judged.
        selection ([`~trl_segment.SelectionConfig`]):
            The pair in use, and its scale.
        unit (`str`):
            Unit of the gains.

    Returns:
        `str`: One sentence.
    """
    yours = f"yours (tau {selection.tau:g}, beta {selection.beta:g}, {selection.consistency_scale})"
    if challenge is None:
        return (
            f"No pair is compared with {yours}, which is not among those of the sweep, or keeps or drops too few "
            "segments to be judged."
        )
    if np.isnan(challenge.gain.value):
        return f"There are too few traces to say whether any pair is better than {yours}."
    gain = f"{_interval(challenge.gain)} {unit} on traces that it was not chosen on"
    if challenge.clear:
        return (
            f"tau {challenge.tau:g}, beta {challenge.beta:g}, {challenge.title} is clearly better than {yours}: the "
            f"gap grows by {gain}."
        )
    return f"No pair is clearly better than {yours}: with the best one the gap grows by {gain}."


def agreement_lines(first: str, second: str, agreement: "Agreement", differences: Sequence[str]) -> Iterator[str]:
    """
    How much two stores agree.

    Args:
        first (`str`):
            Name of one store.
        second (`str`):
            Name of the other.
        agreement ([`~trl_segment.evaluation.tuning.Agreement`]):
            The result.
        differences (`Sequence[str]`):
            Where their settings differ.

    Yields:
        `str`: Each line.
    """
    yield f"\n{first} and {second}: {count(agreement.traces, 'trace')} in both"
    yield f"  differ in: {'; '.join(differences) or 'no setting'}"
    yield f"  rank correlation of strengths    {_interval(agreement.strength)}"
    if not np.isnan(agreement.direction.value):
        yield f"  rank correlation of signed sums  {_interval(agreement.direction)}"
    yield (f"  Jaccard index of selections      {_interval(agreement.selection)}, by chance {agreement.by_chance:.2f}")


def figures_lines(graded: "Mapping[str, Sequence[Graded]]", sets: Sequence[str]) -> Iterator[str]:
    """
    Figures of models and their differences for each problem set, and over all where there are several.

    Args:
        graded (`Mapping[str, Sequence[Graded]]`):
            For each model its outputs on each set.
        sets (`Sequence[str]`):
            Names of the sets.

    Yields:
        `str`: Each line.
    """
    for index, name in enumerate([*sets, *(["all"] if len(sets) > 1 else [])]):
        chosen = {label: parts[index : index + 1] or parts for label, parts in graded.items()}
        yield f"\n{name} (95 % bootstrap intervals over problems)"
        for label, parts in chosen.items():
            yield f"  {label}: {_figures(summarize(parts))}"
        for a, b in combinations(chosen, 2):
            difference = paired_difference(chosen[a], chosen[b])
            if difference["accuracy"] is None:
                yield f"  {b} minus {a}: no problem in common"
                continue
            line = f"accuracy {_interval(difference['accuracy'], 100, 1)} points"
            if difference["tokens"] is not None:
                line += f"; tokens {_interval(difference['tokens'], 1, 1)}"
            yield f"  {b} minus {a}: {line} ({difference['problems']} problems, paired)"


def _figures(figures: "Figures") -> str:
    """One model's figures."""
    parts = [f"accuracy {_interval(figures.accuracy, 100, 1)} %"]
    parts += [f"pass@{k} {_interval(value, 100, 1)} %" for k, value in figures.pass_at.items() if k > 1]
    if figures.mean_tokens is not None:
        parts.append(f"tokens {_interval(figures.mean_tokens, 1, 1)}, median {figures.median_tokens:,.0f}")
    if figures.cut_off is not None:
        parts.append(f"cut off {_interval(figures.cut_off, 100, 1)} %")
    parts += [f"{n} {v}" for v, n in sorted(figures.verdicts.items()) if v not in ("correct", "wrong")]
    return f"{'; '.join(parts)} ({figures.problems} problems x {figures.samples})"


def _interval(estimate: "Estimate", scale: float = 1.0, digits: int = 2) -> str:
    value, low, high = (f"{scale * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
