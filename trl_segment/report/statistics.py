"""
What a selection does to a whole dataset, as counts.

Everything is counted into fixed bins while the traces pass by, so memory does not grow with their number.
"""

import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from ..evaluation.faithfulness import FaithfulnessSummary
from ..selection import DROPPED_BY_CHANCE, VERDICTS, ReliabilityCount, SelectionConfig, select
from ..store import StoredAttribution
from ..traces import RETRO_SEARCH_KEYWORDS, Trace
from .verdicts import reliability_of


# Kept, or why dropped, in the order of the rows of all counts below
GROUPS = ("kept", "weak", "one-sided", "against")
# A draw by chance is no finding about the scores: there is no group for what it drops
_GROUP_OF = {
    verdict: GROUPS.index(verdict.removeprefix("dropped, ")) if verdict.startswith("dropped") else 0
    for verdict in VERDICTS
    if verdict != DROPPED_BY_CHANCE
}

# Upper edges but for the first entry, which is the lowest edge. Values outside go to the bins at the ends.
STRENGTH_EDGES = np.linspace(-2, 1.5, 29)  # log10 of strength over the mean strength of the trace's segments
CONSISTENCY_EDGES = np.linspace(0, 1, 26)
POSITION_EDGES = np.linspace(0, 1, 21)  # middle of the segment, by number, over the number of segments
LENGTH_EDGES = np.linspace(0, 12, 25)  # log2 of tokens
REPETITION_EDGES = np.linspace(0, 1, 11)
GAP_EDGES = np.linspace(-5, 1, 25)  # log10 of gap or defect over |F(input) - F(baseline)|
CURVE_GRID = np.linspace(0, 1, 101)  # share of a trace's segments, strongest first
CURVE_EDGES = np.linspace(0, 1, 201)  # share of its strength that they hold

_BINS = {
    "strength": STRENGTH_EDGES,
    "consistency": CONSISTENCY_EDGES,
    "position": POSITION_EDGES,
    "length": LENGTH_EDGES,
    "repetition": REPETITION_EDGES,
    "gaps": GAP_EDGES,
    "curve": [CURVE_GRID, CURVE_EDGES],
    "share_for_80": CURVE_GRID,
}

NOT_IN_THE_STORE = "not in the store"
# Rows that a page's list holds: some 5 MB
MOST_LISTED = 50_000

# Characters of a window that counts as repeated: about four words
REPETITION_WINDOW = 20
_MOST_OPENERS = 10_000
_FEWEST_TOKENS_OF_EXAMPLE = 8

_KEYWORD = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(RETRO_SEARCH_KEYWORDS, key=len, reverse=True)))})\b")
_FIRST_WORD = re.compile(r"\w+|\S")


@dataclass(order=True)
class Example:
    """
    A segment worth reading.

    Args:
        score (`float`):
            How telling it is among those of its kind.
        trace (`str`):
            Name of its trace.
        index (`int`):
            Number of the segment in the trace, from 0.
        segments (`int`):
            Segments of the trace.
        text (`str`):
            Its text.
        tokens (`int`):
            Its tokens.
        share (`float`):
            Its share of the trace's strength.
        consistency (`float`):
            Its direction consistency.
        sum_signed (`float`):
            Its net attribution in nats.
        repeated (`float`):
            Share of its text that stood before in the trace.
    """

    score: float
    trace: str
    index: int
    segments: int
    text: str
    tokens: int
    share: float
    consistency: float
    sum_signed: float
    repeated: float


@dataclass
class ListedTrace:
    """
    A trace in the list of a report. All but the first two are `None` where they are not known.

    Args:
        number (`int`):
            Number of its row, from 0.
        name (`str`):
            Its name.
        reason (`str`, *optional*):
            Why it has no scores.
        segments, kept_segments, tokens, kept_tokens (`int`, *optional*):
            Segments and reasoning tokens, and those that are kept.
        strength (`float`, *optional*):
            Mean strength of its segments.
        needed (`float`, *optional*):
            Share of its segments, strongest first, that holds 80 % of its strength.
        gain (`float`, *optional*):
            By how much the reasoning raises the answer's log-probability, in nats.
        reliability (`str`, *optional*):
            One of [`~trl_segment.report.verdicts.RELIABILITY`].
    """

    number: int
    name: str
    reason: str | None = None
    segments: int | None = None
    kept_segments: int | None = None
    tokens: int | None = None
    kept_tokens: int | None = None
    strength: float | None = None
    needed: float | None = None
    gain: float | None = None
    reliability: str | None = None


@dataclass
class DatasetStatistics:
    """
    Counts over the traces of a dataset. Rows of two-dimensional counts are [`GROUPS`].

    Args:
        thresholds ([`~trl_segment.SelectionConfig`]):
            Selection that the counts are for.
        traces (`int`):
            Traces that were attributed.
        skipped (`dict[str, list[str]]`):
            Names of the traces that could not be attributed and are trained in full, by reason.
        missing (`list[str]`):
            Names of the rows that the store does not hold.
        segments (`np.ndarray`):
            Segments per group, shape (groups,).
        tokens (`np.ndarray`):
            Reasoning tokens per group, shape (groups,).
        forced (`int`):
            Kept segments that are kept only because they stand at an end of their trace.
        negative (`int`):
            Kept segments whose net attribution is negative: they lower the answer's log-probability.
        strength, consistency, position, length, repetition (`np.ndarray`):
            Segments per group and bin of `*_EDGES`, shape (groups, bins).
        consistency_by_length (`np.ndarray`):
            Sum of consistencies per bin of `LENGTH_EDGES`, shape (bins,).
        strength_by_position (`np.ndarray`):
            Sum over traces of the share of strength per bin of `POSITION_EDGES`, shape (bins,).
        curve (`np.ndarray`):
            Traces per point of `CURVE_GRID` and bin of `CURVE_EDGES`, shape (101, 200).
        share_for_80 (`np.ndarray`):
            Traces by the share of segments that hold 80 % of the strength, per bin of `CURVE_GRID`, shape (100,).
        gaps, defects (`np.ndarray`):
            Traces by completeness gap and by quadrature defect, per bin of `GAP_EDGES`, shape (bins,).
        worst_gaps (`list[tuple[float, str]]`):
            The largest relative completeness gaps and the names of their traces.
        reliability ([`~trl_segment.selection.ReliabilityCount`]):
            How far the scores can be trusted.
        evaluations (`Counter`):
            Traces by the number of gradient evaluations spent.
        stopped_by (`Counter`):
            Traces by what stopped their quadrature.
        openers (`dict[str, np.ndarray]`):
            Segments per group, by opening keyword (or first word), shape (groups,).
        roles (`dict[str, np.ndarray]`):
            Segments per group, by known role, shape (groups,); empty for datasets without roles.
        examples (`dict[str, list[Example]]`):
            Per group the most telling segments, the most telling one first.
        has_text (`bool`):
            Whether the traces came with their text: without it there are no openers, repetition, examples.
        listed (`list[ListedTrace]`):
            The first `MOST_LISTED` rows, one by one.
        faithfulness ([`~trl_segment.evaluation.faithfulness.FaithfulnessSummary`] or `None`):
            Sufficiency and necessity of the selection, where a model measured them.
    """

    thresholds: SelectionConfig
    traces: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    segments: np.ndarray = field(default_factory=lambda: _per_group())
    tokens: np.ndarray = field(default_factory=lambda: _per_group())
    forced: int = 0
    negative: int = 0
    strength: np.ndarray = field(default_factory=lambda: _counts(STRENGTH_EDGES))
    consistency: np.ndarray = field(default_factory=lambda: _counts(CONSISTENCY_EDGES))
    position: np.ndarray = field(default_factory=lambda: _counts(POSITION_EDGES))
    length: np.ndarray = field(default_factory=lambda: _counts(LENGTH_EDGES))
    repetition: np.ndarray = field(default_factory=lambda: _counts(REPETITION_EDGES))
    consistency_by_length: np.ndarray = field(default_factory=lambda: np.zeros(len(LENGTH_EDGES) - 1))
    strength_by_position: np.ndarray = field(default_factory=lambda: np.zeros(len(POSITION_EDGES) - 1))
    curve: np.ndarray = field(
        default_factory=lambda: np.zeros((len(CURVE_GRID), len(CURVE_EDGES) - 1), dtype=np.int64)
    )
    share_for_80: np.ndarray = field(default_factory=lambda: np.zeros(len(CURVE_GRID) - 1, dtype=np.int64))
    gaps: np.ndarray = field(default_factory=lambda: np.zeros(len(GAP_EDGES) - 1, dtype=np.int64))
    defects: np.ndarray = field(default_factory=lambda: np.zeros(len(GAP_EDGES) - 1, dtype=np.int64))
    worst_gaps: list[tuple[float, str]] = field(default_factory=list)
    reliability: ReliabilityCount = field(default_factory=ReliabilityCount)
    evaluations: Counter = field(default_factory=Counter)
    stopped_by: Counter = field(default_factory=Counter)
    openers: dict[str, np.ndarray] = field(default_factory=dict)
    roles: dict[str, np.ndarray] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=lambda: {group: [] for group in GROUPS})
    has_text: bool = False
    listed: list[ListedTrace] = field(default_factory=list)
    faithfulness: FaithfulnessSummary | None = None

    def to_dict(self) -> dict:
        """All counts under their names, without the list and the texts of the examples, and the edges of the bins."""
        counts = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name not in ("thresholds", "examples", "listed", "reliability", "faithfulness")
        }
        if self.faithfulness is not None:
            counts["faithfulness"] = asdict(self.faithfulness)
        counts["unsettled"] = self.reliability.unsettled
        counts["unread"] = self.reliability.unread
        return {
            "thresholds": {entry.name: getattr(self.thresholds, entry.name) for entry in fields(SelectionConfig)},
            "groups": list(GROUPS),
            **counts,
            "bins": _BINS,
        }


def collect_statistics(
    rows: Iterable[tuple[str, Trace | None, StoredAttribution | None, Sequence[str] | None]],
    config: SelectionConfig,
    num_examples: int = 4,
) -> DatasetStatistics:
    """
    Count what a selection does.

    Args:
        rows (`Iterable[tuple]`):
            Name, trace (`None` where only the scores are known), stored attribution (`None` where the store lacks the
            trace) and the segments' known roles, if any.
        config ([`~trl_segment.SelectionConfig`]):
            Thresholds.
        num_examples (`int`, *optional*, defaults to `4`):
            Examples to keep of each group.

    Returns:
        [`DatasetStatistics`]: The counts.

    Raises:
        `ValueError`: If the selection is drawn at random, so that its groups say nothing about scores.
    """
    if config.selection == "random":
        raise ValueError(
            "Statistics say what scores do to a selection, and `selection='random'` does not depend on them. Pass a "
            "config with another `selection`."
        )
    statistics = DatasetStatistics(thresholds=config)
    tie = itertools.count()  # heaps must not compare texts
    heaps: dict[str, list] = {group: [] for group in GROUPS}
    for number, (name, trace, row, roles) in enumerate(rows):
        listed = ListedTrace(number, name)
        if number < MOST_LISTED:
            statistics.listed.append(listed)
        statistics.has_text |= trace is not None
        if row is None:
            statistics.missing.append(name)
            listed.reason = NOT_IN_THE_STORE
        elif row.problem is not None:
            statistics.skipped.setdefault(row.problem, []).append(name)
            listed.reason = row.problem
        else:
            for group, example in _add(statistics, listed, trace, row, roles).items():
                heapq.heappush(heaps[group], (example.score, -next(tie), example))
                if len(heaps[group]) > num_examples:
                    heapq.heappop(heaps[group])
    for group, heap in heaps.items():
        statistics.examples[group] = [example for _, _, example in sorted(heap, reverse=True)]
    return statistics


def repeated_shares(texts: Sequence[str], before: str = "") -> np.ndarray:
    """
    How much of each text stood before.

    Args:
        texts (`Sequence[str]`):
            Texts in order.
        before (`str`, *optional*):
            What came in front of them.

    Returns:
        `np.ndarray`: Per text the share of its windows of [`REPETITION_WINDOW`] characters, letter case and white
        space aside, that occur in an earlier text, shape (texts,). 0 for a text shorter than a window.
    """
    seen = _windows(before)
    shares = np.zeros(len(texts))
    for index, text in enumerate(texts):
        windows = _windows(text)
        if windows:
            shares[index] = len(windows & seen) / len(windows)
            seen |= windows
    return shares


def opening_of(text: str, index: int) -> str:
    """
    What a segment opens with.

    Args:
        text (`str`):
            Its text.
        index (`int`):
            Its number in the trace, from 0.

    Returns:
        `str`: The longest keyword of the paper or of Retro-Search that it starts with, else its first word or symbol;
        `"(start)"` for a first segment, `"(empty)"` for white space alone.
    """
    text = text.lstrip()
    if index == 0:
        return "(start)"
    match = _KEYWORD.match(text) or _FIRST_WORD.match(text)
    return match[0][:30] if match else "(empty)"


def _add(statistics, listed, trace, row, roles) -> dict[str, Example]:
    """Count one trace, and fill in what the list says of it; per group its most telling segment."""
    config, name = statistics.thresholds, listed.name
    scores = row.segment_scores
    verdicts = select(scores, config, row.key).verdicts
    groups = np.array([_GROUP_OF[verdict] for verdict in verdicts])
    num_tokens, strength = scores.num_tokens, scores.strength
    # Scores of whole segments have no direction, and count as having none
    consistency = np.nan_to_num(scores.consistency)
    signed = scores.sum_signed if scores.directed else np.zeros(len(scores))
    count, total = len(strength), strength.sum()
    share = strength / total if total > 0 else np.full(count, 1 / count)

    statistics.traces += 1
    statistics.segments += np.bincount(groups, minlength=len(GROUPS))
    statistics.tokens += np.bincount(groups, weights=num_tokens, minlength=len(GROUPS)).astype(np.int64)
    statistics.forced += verdicts.count("kept, always")
    statistics.negative += int(((groups == 0) & (signed < 0)).sum())
    with np.errstate(divide="ignore"):
        _count(statistics.strength, groups, np.log10(share * count), STRENGTH_EDGES)
    _count(statistics.consistency, groups, consistency, CONSISTENCY_EDGES)
    # In integers: middles often lie on an edge
    position = (2 * np.arange(count) + 1) * (len(POSITION_EDGES) - 1) // (2 * count)
    np.add.at(statistics.position, (groups, position), 1)
    np.add.at(statistics.strength_by_position, position, share)
    length = np.log2(np.maximum(num_tokens, 1))
    _count(statistics.length, groups, length, LENGTH_EDGES)
    np.add.at(statistics.consistency_by_length, _bins(length, LENGTH_EDGES), consistency)

    held = np.concatenate([[0.0], np.cumsum(np.sort(share)[::-1])])
    curve = np.interp(CURVE_GRID, np.arange(count + 1) / count, held)
    np.add.at(statistics.curve, (np.arange(len(CURVE_GRID)), _bins(curve, CURVE_EDGES)), 1)
    needed = (np.searchsorted(held, 0.8 - 1e-12)) / count
    statistics.share_for_80[_bins(np.array([needed - 1e-12]), CURVE_GRID)] += 1
    kept = groups == 0
    listed.segments, listed.kept_segments = count, int(kept.sum())
    listed.tokens, listed.kept_tokens = int(num_tokens.sum()), int(num_tokens[kept].sum())
    listed.strength, listed.needed = float(strength.mean()), float(needed)
    listed.gain, listed.reliability = row.gain, reliability_of(row)

    statistics.reliability.add(name, row.reliability, row.gain)
    for counts, error in ((statistics.gaps, row.completeness_gap), (statistics.defects, row.defect)):
        # Scorers that do not integrate have none
        if error is not None and math.isfinite(error) and row.f_baseline is not None:
            relative = abs(error) / max(abs(row.f_input - row.f_baseline), np.finfo(float).tiny)
            counts[_bins(np.log10([max(relative, 1e-300)]), GAP_EDGES)] += 1
            if counts is statistics.gaps:
                statistics.worst_gaps = heapq.nlargest(8, [*statistics.worst_gaps, (relative, name)])
    statistics.evaluations[row.evaluations] += 1
    statistics.stopped_by[row.stopped_by or "unknown"] += 1
    if roles is not None and len(roles) == count:
        for role, group in zip(roles, groups, strict=True):
            statistics.roles.setdefault(str(role), _per_group())[group] += 1

    if trace is None:
        return {}
    texts = trace.segment_texts
    prompt = trace.prompt if isinstance(trace.prompt, str) else str(trace.prompt[-1:])
    repeated = repeated_shares(texts, prompt)
    _count(statistics.repetition, groups, repeated, REPETITION_EDGES)
    for index, (text, group) in enumerate(zip(texts, groups, strict=True)):
        opening = opening_of(text, index)
        if opening not in statistics.openers and len(statistics.openers) >= _MOST_OPENERS:
            opening = "(other)"
        statistics.openers.setdefault(opening, _per_group())[group] += 1

    examples = {}
    for number, group in enumerate(GROUPS):
        # Weak: the longest text for the least strength. Others: the strongest for their trace.
        telling = num_tokens / np.maximum(share * count, 0.01) if group == "weak" else share * count
        eligible = (groups == number) & (num_tokens >= _FEWEST_TOKENS_OF_EXAMPLE)
        if group == "kept":
            eligible &= np.array([verdict == "kept" for verdict in verdicts])
        telling = np.where(eligible, telling, 0)
        best = int(telling.argmax())
        if telling[best] > 0:
            examples[group] = Example(
                float(telling[best]),
                name,
                best,
                count,
                texts[best],
                int(num_tokens[best]),
                float(share[best]),
                float(consistency[best]),
                float(signed[best]),
                float(repeated[best]),
            )
    return examples


def _per_group():
    return np.zeros(len(GROUPS), dtype=np.int64)


def _counts(edges):
    return np.zeros((len(GROUPS), len(edges) - 1), dtype=np.int64)


def _bins(values, edges):
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _count(counts, groups, values, edges):
    np.add.at(counts, (groups, _bins(values, edges)), 1)


def _windows(text):
    text = " ".join(text.lower().split())
    return {hash(text[start : start + REPETITION_WINDOW]) for start in range(len(text) - REPETITION_WINDOW + 1)}
