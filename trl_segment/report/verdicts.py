"""What a reader should know first of a trace or of a dataset, in one sentence."""

from typing import TYPE_CHECKING

from ..evaluation.faithfulness import verdict
from ..selection.reliability import LEAST_GAIN, MOST_UNSETTLED
from ..store import StoredAttribution


if TYPE_CHECKING:
    from .statistics import DatasetStatistics


RELIABILITY = ("settled", "not settled", "unread", "not measured")


def reliability_of(row: StoredAttribution) -> str:
    """
    How far the scores of a trace can be trusted.

    Args:
        row ([`~trl_segment.attribution.StoredAttribution`]):
            Its stored attributions.

    Returns:
        `str`: One of [`RELIABILITY`]: `"unread"` where the reasoning does not raise the answer's log-probability,
        `"not measured"` where nothing was integrated.
    """
    if row.gain is not None and row.gain < LEAST_GAIN:
        return "unread"
    if row.reliability is None:
        return "not measured"
    return "settled" if row.reliability.settled else "not settled"


def describe_reliability(row: StoredAttribution) -> str:
    """
    The same as half a sentence, with its reason.

    Args:
        row ([`~trl_segment.attribution.StoredAttribution`]):
            Its stored attributions.

    Returns:
        `str`: The end of a sentence on the selection: a clause with what joins it, without a full stop.
    """
    state, reliability = reliability_of(row), row.reliability
    if state == "unread":
        change = f"raises the answer's log-probability by {row.gain:.2f} nats only"
        if row.gain < 0:
            change = f"lowers the answer's log-probability by {-row.gain:.2f} nats"
        return f", but its scores say nothing: the reasoning {change}"
    if reliability is None:
        return "; how exact its scores are is not measured, since this scorer integrates nothing"
    halves = f"two halves of the nodes correlate to {reliability.halves_correlation:.2f}"
    if state == "settled":
        return f"; its scores are settled: {halves}"
    found = reliability.warnings or [
        f"{halves} and agree on {reliability.halves_agreement:.0%} of the kept segments",
        f"the sum misses {reliability.gap:.0%} of the change of F",
    ]
    return f", but its selection is partly chance: {', '.join(found)}"


def describe_dataset(statistics: "DatasetStatistics") -> str:
    """
    What a selection does to a dataset and the first thing that speaks for or against it.

    Args:
        statistics ([`~trl_segment.report.statistics.DatasetStatistics`]):
            The numbers.

    Returns:
        `str`: One sentence.
    """
    traces, counted = statistics.traces, statistics.reliability
    in_full = sum(map(len, statistics.skipped.values()))
    if not traces:
        return f"Nothing is selected: none of the {_traces(in_full + len(statistics.missing))} has scores."
    share = statistics.tokens[0] / max(statistics.tokens.sum(), 1)
    trained = f"The selection trains {share:.1%} of the reasoning tokens of {_traces(traces)}"
    unread, unsettled = len(counted.unread), len(counted.unsettled)
    if unread > (unread + counted.read) / 2:
        return (
            f"{trained}, but its scores say little: in {unread:,} of them the reasoning does not raise the answer's "
            "log-probability."
        )
    if in_full > traces:
        reason = max(statistics.skipped, key=lambda reason: len(statistics.skipped[reason]))
        return f"{trained}, but {in_full:,} others are trained in full, most often for this reason: {reason}."
    if unsettled > MOST_UNSETTLED * counted.traces:
        return f"{trained}, but it is partly chance: the scores of {unsettled:,} of them are not settled."
    measured = statistics.faithfulness
    if measured is not None and measured.judged:
        return (
            f"{trained}; by sufficiency it is {verdict(measured.sufficiency)}, by necessity "
            f"{verdict(measured.necessity)}."
        )
    doubtful = len({*counted.unread, *counted.unsettled})
    reliable = "how exact its scores are cannot be measured with this scorer"
    if counted.traces:
        reliable = (
            "its scores are settled" if not doubtful else f"its scores are sound in all but {doubtful:,} of them"
        )
    return f"{trained}; {reliable}, and whether it beats random segments is not measured here."


def _traces(number):
    return f"{number:,} trace{'' if number == 1 else 's'}"
