r"""
Sufficiency and necessity of a selection, without known truth (the measures of ERASER, arXiv 1911.03429, equations 1
and 2, on the log-probability of the answer).

A selection is sufficient if the answer stays likely with the kept segments alone, and necessary if it becomes
unlikely with the dropped ones alone. Neither figure says anything by itself: any half of a trace helps. So each is
compared with segments drawn at random that hold the same share of the tokens, on the same trace.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..selection import SegmentScores, SelectionConfig, always_trained, select
from ..traces import Trace, attributed_sequence
from .gains import KeptLogProbs, sequence_digest
from .metrics import Estimate, bootstrap


if TYPE_CHECKING:
    pass


SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """
    The confidence in the answer of one trace from parts of its reasoning. In nats, or as a probability.

    Args:
        full (`float`):
            From the whole reasoning.
        empty (`float`):
            Without any reasoning.
        share (`float`):
            Share of the reasoning's tokens that the selection keeps.
        kept, dropped (`float` or `None`):
            From the kept segments alone, and from the dropped ones alone. `None` if nothing is dropped.
        random_kept, random_dropped (`float` or `None`):
            The same for segments drawn at random, mean over the draws. A draw keeps the segments that are trained
            whatever their scores, as the selection does, and others until their tokens come nearest to its share.
        top, rest (`np.ndarray`):
            From the strongest segments alone at each share of the tokens, and from all others alone, shape (shares,).
            The whole trace stands in the ranking, and no segment is given.
        random_top, random_rest (`np.ndarray`):
            The same for a random order, mean over the draws, shape (shares,).
    """

    full: float
    empty: float
    share: float
    kept: float | None
    dropped: float | None
    random_kept: float | None
    random_dropped: float | None
    top: np.ndarray
    rest: np.ndarray
    random_top: np.ndarray
    random_rest: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """
    A figure for the chosen segments, for random ones, and the paired difference, with intervals over traces.

    Args:
        chosen ([`Estimate`]):
            Mean confidence with the chosen segments.
        random ([`Estimate`]):
            Mean confidence with random segments of the same share of tokens.
        gain ([`Estimate`]):
            Mean difference in favor of the choice: for sufficiency chosen minus random, for necessity random minus
            chosen. A choice beats chance if the interval lies above zero.
    """

    chosen: Estimate
    random: Estimate
    gain: Estimate


@dataclass(frozen=True)
class FaithfulnessSummary:
    """
    Sufficiency and necessity over traces.

    Args:
        traces (`int`):
            Traces measured.
        judged (`int`):
            Those of which the selection drops something: the others say nothing about it.
        without_effect (`int`):
            Traces whose whole reasoning does not raise the confidence in the answer.
        full, empty ([`Estimate`]):
            Mean confidence with the whole reasoning and without any.
        share ([`Estimate`]):
            Mean share of the tokens that the selection keeps, over the judged traces.
        sufficiency ([`Comparison`]):
            With the kept segments alone.
        necessity ([`Comparison`]):
            With the dropped segments alone.
        shares (`tuple[float, ...]`):
            Shares of the curves.
        sufficiency_curve, necessity_curve (`tuple[Comparison, ...]`):
            The strongest segments alone, and all others alone, at each share.
    """

    traces: int
    judged: int
    without_effect: int
    full: Estimate
    empty: Estimate
    share: Estimate
    sufficiency: Comparison
    necessity: Comparison
    shares: tuple[float, ...]
    sufficiency_curve: tuple[Comparison, ...]
    necessity_curve: tuple[Comparison, ...]


def measure_faithfulness(
    scores: SegmentScores,
    config: SelectionConfig,
    key: str,
    confidence: Callable[[np.ndarray], np.ndarray],
    shares: Sequence[float] = SHARES,
    draws: int = 4,
) -> Faithfulness:
    """
    Measure the sufficiency and necessity of the segments of one trace.

    Args:
        scores ([`~trl_segment.selection.SegmentScores`]):
            Stored scores of its segments.
        config ([`~trl_segment.SelectionConfig`]):
            The selection. Its seed and the key seed the draws.
        key (`str`):
            Key of the trace (hexadecimal).
        confidence (`Callable`):
            From sets of segments, bool, shape (sets, segments), to the confidence in the answer from each set alone,
            shape (sets,).
        shares (`Sequence[float]`, *optional*, defaults to `(0.1, 0.2, 0.3, 0.5, 0.7)`):
            Shares of the tokens for the curves.
        draws (`int`, *optional*, defaults to `4`):
            Random sets for each set that is chosen.

    Returns:
        [`Faithfulness`]: In the unit of `confidence`.

    Raises:
        `ValueError`: If there is no draw, or a share is not inside (0, 1).
    """
    check_plan(shares, draws)
    lengths = scores.num_tokens
    total, count = int(lengths.sum()), len(scores)
    kept, always = select(scores, config, key).kept, always_trained(count, config)
    random = np.random.default_rng([config.seed, int(key, 16)])
    orders = [random.permutation(count) for _ in range(draws)]
    strongest = np.argsort(-scores.strength, kind="stable")

    sets = [np.ones(count, dtype=bool), np.zeros(count, dtype=bool)]
    for share in shares:
        for order in (strongest, *orders):
            sets.append(_nearest(order, lengths, share * total))
    for order in orders:
        # The ends stand on both sides, since the selection does not choose them
        first = np.concatenate([np.flatnonzero(always), order[~always[order]]])
        sets.append(_nearest(first, lengths, float(lengths[kept].sum()), least=int(always.sum())))
    sets.append(kept)
    table = np.array(sets)
    together = np.concatenate([table, ~table])
    # A set that comes twice is asked for once
    unique, inverse = np.unique(together, axis=0, return_inverse=True)
    alone, without = np.split(np.asarray(confidence(unique), dtype=np.float64)[inverse.reshape(-1)], 2)

    def curves(values):
        by_share = values[2 : 2 + len(shares) * (draws + 1)].reshape(len(shares), draws + 1)
        return by_share[:, 0], by_share[:, 1:].mean(axis=1)

    (top, random_top), (rest, random_rest) = curves(alone), curves(without)
    dropping = not kept.all()
    return Faithfulness(
        full=float(alone[0]),
        empty=float(alone[1]),
        share=float(lengths[kept].sum() / max(total, 1)),
        kept=float(alone[-1]) if dropping else None,
        dropped=float(without[-1]) if dropping else None,
        random_kept=float(alone[-1 - draws : -1].mean()) if dropping else None,
        random_dropped=float(without[-1 - draws : -1].mean()) if dropping else None,
        top=top,
        rest=rest,
        random_top=random_top,
        random_rest=random_rest,
    )


def check_plan(shares: Sequence[float], draws: int) -> None:
    """
    Check what a measurement is asked for.

    Args:
        shares (`Sequence[float]`):
            Shares of the tokens.
        draws (`int`):
            Random sets for each set that is chosen.

    Raises:
        `ValueError`: If there is no draw, or a share is not inside (0, 1).
    """
    if draws < 1:
        raise ValueError(f"`draws` is the number of random sets and must be at least 1, but {draws} was passed.")
    if not shares or any(not 0 < share < 1 for share in shares):
        raise ValueError(f"`shares` must lie between 0 and 1, without the ends, but {list(shares)} was passed.")


def _nearest(order: np.ndarray, lengths: np.ndarray, tokens: float, least: int = 0) -> np.ndarray:
    """The start of an order, at least `least` long, whose tokens come nearest to a number of tokens."""
    held = np.concatenate([[0], np.cumsum(lengths[order])])
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[: least + int(np.abs(held[least:] - tokens).argmin())]] = True
    return chosen


def summarize_faithfulness(measured: Sequence[Faithfulness], shares: Sequence[float] = SHARES) -> FaithfulnessSummary:
    """
    Sufficiency and necessity over traces, with intervals.

    Args:
        measured (`Sequence[Faithfulness]`):
            One for each trace.
        shares (`Sequence[float]`, *optional*, defaults to `(0.1, 0.2, 0.3, 0.5, 0.7)`):
            Those that they were measured with.

    Returns:
        [`FaithfulnessSummary`]: The figures; `nan` where there is no trace.
    """
    judged = [trace for trace in measured if trace.kept is not None]

    def column(traces, name):
        return np.array([getattr(trace, name) for trace in traces], dtype=np.float64)

    def curve(chosen, drawn, sign):
        first, second = (column(measured, name).reshape(len(measured), len(shares)) for name in (chosen, drawn))
        return tuple(_compare(first[:, i], second[:, i], sign) for i in range(len(shares)))

    return FaithfulnessSummary(
        traces=len(measured),
        judged=len(judged),
        without_effect=sum(trace.full <= trace.empty for trace in measured),
        full=bootstrap([column(measured, "full")]),
        empty=bootstrap([column(measured, "empty")]),
        share=bootstrap([column(judged, "share")]),
        sufficiency=_compare(column(judged, "kept"), column(judged, "random_kept"), 1),
        necessity=_compare(column(judged, "dropped"), column(judged, "random_dropped"), -1),
        shares=tuple(shares),
        sufficiency_curve=curve("top", "random_top", 1),
        necessity_curve=curve("rest", "random_rest", -1),
    )


def _compare(chosen: np.ndarray, random: np.ndarray, sign: int) -> Comparison:
    return Comparison(bootstrap([chosen]), bootstrap([random]), bootstrap([sign * (chosen - random)]))


def describe_faithfulness(summary: FaithfulnessSummary, unit: str) -> str:
    """
    What the figures say, in a few lines.

    Args:
        summary ([`FaithfulnessSummary`]):
            The figures.
        unit (`str`):
            Unit of the confidence.

    Returns:
        `str`: The lines.
    """
    lines = [
        f"Confidence in the answer ({unit}, mean over {summary.traces:,} traces): {_short(summary.full)} with the "
        f"whole reasoning, {_short(summary.empty)} without any. The reasoning does not raise it in "
        f"{summary.without_effect:,} of {summary.traces:,} traces."
    ]
    if summary.judged:
        lines += [
            f"The selection keeps {summary.share.value:.0%} of the tokens in the {summary.judged:,} traces of which "
            "it drops something.",
            f"  sufficiency: {_against_random('kept segments alone', summary.sufficiency)}",
            f"  necessity:   {_against_random('dropped segments alone', summary.necessity)}",
        ]
    else:
        lines.append("The selection drops nothing in any trace, so there is nothing to judge.")
    lines.append("By share of the tokens, the strongest segments first:")
    for share, sufficient, necessary in zip(
        summary.shares, summary.sufficiency_curve, summary.necessity_curve, strict=True
    ):
        lines += [
            f"  {share:>4.0%} alone:   {_against_random('strongest', sufficient)}",
            f"       without: {_against_random('strongest', necessary)}",
        ]
    return "\n".join(lines)


def verdict(comparison: Comparison) -> str:
    """
    A comparison in words.

    Args:
        comparison ([`Comparison`]):
            The figures.

    Returns:
        `str`: `"better than random"`, `"worse than random"`, or `"not told from random"` if the interval of the
        difference holds zero.
    """
    if comparison.gain.low > 0:
        return "better than random"
    return "worse than random" if comparison.gain.high < 0 else "not told from random"


def _against_random(name: str, comparison: Comparison) -> str:
    return (
        f"{name} {comparison.chosen.value:.2f}, random {comparison.random.value:.2f}, gain "
        f"{_short(comparison.gain, sign='+')}: {verdict(comparison)}"
    )


def _short(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


class SubsetConfidence(KeptLogProbs):
    """
    Confidence in the answer of a trace from some of its segments alone, see
    [`~trl_segment.evaluation.gains.KeptLogProbs`].
    """

    key = ("sequence", "segments")

    def of(
        self, trace: Trace, answer_template: str, answer_statements: str = "visible"
    ) -> Callable[[np.ndarray], np.ndarray] | str:
        """
        The confidence function of a trace.

        Args:
            trace ([`~trl_segment.Trace`]):
                A trace that can be attributed.
            answer_template (`str`):
                Text behind the reasoning, see [`~trl_segment.AttributionConfig`].
            answer_statements (`str`, *optional*, defaults to `"visible"`):
                What becomes of statements of the answer in the reasoning, see the same.

        Returns:
            `Callable` or `str`: What [`measure_faithfulness`] takes, or why there is none.
        """
        from ..models.inspection import neutral_token

        model, tokenizer, file = self._open()
        sequence = attributed_sequence(
            trace, tokenizer, answer_template, answer_statements, neutral_token(model.config)
        )
        if sequence.problem is not None:
            return sequence.problem
        digest = sequence_digest(sequence)

        def confidence(sets: np.ndarray) -> np.ndarray:
            from .confidence import subset_log_probs

            names = [(digest, np.packbits(chosen).tobytes().hex()) for chosen in sets]
            missing = [i for i, name in enumerate(names) if name not in file.records]
            if missing:
                values = subset_log_probs(
                    model, sequence.input_ids, sequence.target, sequence.segments, np.asarray(sets)[missing]
                )
                for i, value in zip(missing, values.tolist(), strict=True):
                    file.append({"sequence": digest, "segments": names[i][1], "log_prob": value})
            return self._on_scale(np.array([file.records[name]["log_prob"] for name in names]))

        return confidence
