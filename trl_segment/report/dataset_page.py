"""A dataset's selection as a page with figures."""

import base64
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.faithfulness import verdict
from ..printing import json_ready
from .figures import DARK, GROUP_LABELS, LIGHT, curve_quantiles, draw_figures
from .page import render_page
from .statistics import CURVE_GRID, GAP_EDGES, GROUPS, REPETITION_EDGES, DatasetStatistics
from .trace_list import list_data
from .verdicts import RELIABILITY, describe_dataset


_MOST_NAMES = 12
_MOST_ROWS = 20
_EXAMPLE_CHARACTERS = 900

# Heading of each figure, and the term that it is about
_FIGURES = {
    "cumulative_attribution": ("Where the attribution is", "needed"),
    "position": ("Kept by position", "position"),
    "sufficiency": ("Kept segments alone", "sufficiency"),
    "necessity": ("Without the kept segments", "necessity"),
    "strength": ("Strength", "strength"),
    "consistency": ("Consistency", "consistency"),
    "consistency_by_length": ("Consistency and length", "consistency"),
    "length": ("Length", None),
    "openers": ("Kept by opening word", None),
    "roles": ("Kept by known role", "role"),
    "repetition": ("Repetition", "repetition"),
    "completeness": ("Completeness", "completeness"),
    "evaluations": ("Gradient evaluations", "evaluations"),
}


def write_report(
    statistics: DatasetStatistics,
    folder: str | os.PathLike,
    title: str,
    settings: Mapping[str, Any] | None = None,
    pages: Collection[int] = (),
) -> Path:
    """
    Write the page of a dataset, its figures as files of their own, and all numbers.

    Args:
        statistics ([`~trl_segment.report.statistics.DatasetStatistics`]):
            The numbers.
        folder (`str` or `os.PathLike`):
            Folder for `index.html` (which holds the figures too and needs no other file), `figures/*.svg`,
            `figures/*.png` and `statistics.json`.
        title (`str`):
            What the report is about.
        settings (`Mapping`, *optional*):
            What made the scores.
        pages (`Collection[int]`, *optional*):
            Numbers of the rows that [`~trl_segment.report.trace_list.TracePages`] has written a page of.

    Returns:
        `Path`: The page.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures = []
    if statistics.traces:
        light, dark = (draw_figures(statistics, theme, "svg") for theme in (LIGHT, DARK))
        pictures = draw_figures(statistics, LIGHT, "png")
        for name in (name for name in _FIGURES if name in light):
            (folder / "figures" / f"{name}.svg").write_bytes(light[name])
            (folder / "figures" / f"{name}.png").write_bytes(pictures[name])
            finding = describe_figure(name, statistics)
            figures.append((*_FIGURES[name], finding, _data_uri(light[name]), _data_uri(dark[name])))
    (folder / "statistics.json").write_text(json.dumps(json_ready(statistics.to_dict()), indent=1), encoding="utf-8")
    page = render_page(
        "dataset.html.jinja",
        ("common.css", "dataset.css"),
        ("common.js", "dataset.js"),
        title=title,
        verdict=describe_dataset(statistics),
        statistics=statistics,
        facts=_facts(statistics),
        figures=figures,
        group_labels=[label for label, count in zip(GROUP_LABELS, statistics.segments, strict=True) if count],
        tables=_tables(statistics),
        skipped=[(reason, len(names), _names(names)) for reason, names in statistics.skipped.items()],
        missing=_names(statistics.missing),
        examples=_examples(statistics),
        notes=list_notes(statistics, len(pages)),
        data=json_ready({**list_data(statistics.listed, pages), "reliability": RELIABILITY}),
        settings={key: str(value) for key, value in (settings or {}).items()},
    )
    (folder / "index.html").write_text(page, encoding="utf-8", newline="\n")
    return folder / "index.html"


def describe_figure(name: str, statistics: DatasetStatistics) -> str:
    """
    What a figure shows, in a sentence or two with its numbers.

    Args:
        name (`str`):
            Name of the figure.
        statistics ([`~trl_segment.report.statistics.DatasetStatistics`]):
            The numbers.

    Returns:
        `str`: The sentences.
    """
    config = statistics.thresholds
    share = dict(zip(GROUPS, statistics.segments / max(statistics.segments.sum(), 1), strict=True))
    if name == "cumulative_attribution":
        half = _quantile(statistics.share_for_80, CURVE_GRID)
        (middle,) = curve_quantiles(statistics, (0.5,))
        return (
            f"Half of the traces have 80 % of their strength in at most {half:.0%} of their segments; the paper finds "
            f"30 to 40 %. In the median trace the strongest third holds {middle[33]:.0%}."
        )
    if name == "strength":
        reason = f"because the stronger ones of their trace reach tau {config.tau:g} without them"
        if config.selection == "threshold":
            reason = f"for a strength under {config.min_strength:g}"
        return f"{share['weak']:.1%} of the segments are dropped {reason}."
    if name == "consistency":
        dropped = share["one-sided"]
        among = dropped / max(dropped + share["kept"], 1e-9)
        compared = {"absolute": "consistency", "chance": "consistency over chance", "rank": "rank of consistency"}
        return (
            f"{dropped:.1%} of the segments, {among:.1%} of those strong enough or at an end, are dropped for a "
            f"{compared[config.consistency_scale]} above beta {config.beta:g}."
        )
    if name in ("sufficiency", "necessity"):
        return _describe_comparison(name, statistics.faithfulness)
    if name == "consistency_by_length":
        return (
            "Random signs give less consistency the longer a segment is, so one beta does not treat short and long "
            "segments alike. Segments on the dotted line have no direction at all."
        )
    if name == "position":
        kept = statistics.position[0] / np.maximum(statistics.position.sum(axis=0), 1)
        return (
            f"Kept in the first, middle and last twentieth of a trace: {kept[0]:.0%}, {kept[len(kept) // 2]:.0%}, "
            f"{kept[-1]:.0%}. {statistics.forced:,} segments are kept because they stand at an end."
        )
    if name == "length":
        mean = statistics.tokens / np.maximum(statistics.segments, 1)
        return f"Mean tokens: {_by_group(mean, '.0f', statistics)}."
    if name == "openers":
        return "How much is kept of the segments that open with a word; in brackets how many there are."
    if name == "roles":
        return "How much is kept of the segments whose role is known; in brackets how many there are."
    if name == "repetition":
        high = statistics.repetition[:, REPETITION_EDGES[:-1] >= 0.5 - 1e-9].sum(axis=1)
        repeated = high / np.maximum(statistics.repetition.sum(axis=1), 1)
        return (
            f"At least half of the text stood before, in question or trace: {_by_group(repeated, '.0%', statistics)}."
        )
    if name == "completeness":
        over = statistics.gaps[GAP_EDGES[:-1] >= -2 - 1e-9].sum()
        return (
            f"The attributions of {over:,} of {statistics.gaps.sum():,} traces miss F(input) - F(baseline) by 1 % or "
            f"more{': their quadrature is too coarse' if over else ''}."
        )
    spent = np.array(list(statistics.evaluations.elements()))
    reasons = ", ".join(f"{count:,} by {reason}" for reason, count in statistics.stopped_by.most_common())
    return f"{spent.mean():.1f} per trace, {spent.sum():,} in all. Stopped: {reasons}."


def _describe_comparison(name, summary):
    if not summary.judged:
        return "The selection drops nothing in any trace that was measured. Bands are 95 % intervals over traces."
    comparison = getattr(summary, name)
    chosen, random, gain = comparison.chosen, comparison.random, comparison.gain
    read = "kept" if name == "sufficiency" else "dropped"
    return (
        f"Mean confidence in the answer with the {read} segments alone {chosen.value:.2f}, with random segments in "
        f"place of the kept ones {random.value:.2f}. Gain {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] over "
        f"{summary.judged:,} traces: {verdict(comparison)}."
    )


def _by_group(values, number_format, statistics):
    named = zip(values, GROUP_LABELS, statistics.segments, strict=True)
    return ", ".join(
        f"{value:{number_format}} {label.replace(', ', ' as ')}" for value, label, count in named if count
    )


def _facts(statistics):
    kept, dropped = statistics.segments[0], statistics.segments[1:].sum()
    tokens = statistics.tokens
    integrated = statistics.reliability.traces
    settled = integrated - len(statistics.reliability.unsettled)
    unread = len(statistics.reliability.unread)
    return [
        (f"{statistics.traces:,}", "traces attributed", None),
        *([(f"{settled:,}", f"of {integrated:,} have settled attributions", "settled")] if integrated else []),
        *([(f"{unread:,}", "traces whose reasoning does not raise the answer", "gain")] if unread else []),
        (f"{kept:,}", f"of {kept + dropped:,} segments trained ({kept / max(kept + dropped, 1):.1%})", "trained"),
        (f"{tokens[0] / max(tokens.sum(), 1):.1%}", f"of {tokens.sum():,} reasoning tokens trained", "kept_tokens"),
        (f"{statistics.negative:,}", "kept segments lower the answer's log-probability", "sum"),
        (f"{sum(map(len, statistics.skipped.values())):,}", "traces trained in full", "in_full"),
    ]


def list_notes(statistics: DatasetStatistics, pages: int) -> list[str]:
    """
    What the list of traces and its links leave out.

    Args:
        statistics ([`~trl_segment.report.statistics.DatasetStatistics`]):
            The numbers.
        pages (`int`):
            Number of traces that have a page.

    Returns:
        `list[str]`: A sentence for each thing; empty if nothing is left out.
    """
    rows = statistics.traces + sum(map(len, statistics.skipped.values())) + len(statistics.missing)
    listed, notes = len(statistics.listed), []
    if listed < rows:
        notes.append(f"The list has the first {listed:,} of {rows:,} traces; figures and numbers are of all.")
    if not statistics.has_text:
        notes.append("No trace has a page of its own, since the store holds no text: pass --dataset_name.")
    elif pages < rows - len(statistics.missing):
        notes.append(
            f"{pages:,} of {rows:,} traces have a page of their own. --trace_pages N writes more, and `trl-segment "
            "inspect --trace ID --html FILE` writes any one."
        )
    return notes


def _tables(statistics):
    """Titles, what the first column names, rows (name, segments, share of each group), how many are left out."""
    tables, present = [], statistics.segments > 0
    for title, heading, groups in (
        ("By opening word", "opens with", statistics.openers),
        ("By known role", "role", statistics.roles),
    ):
        if groups:
            ordered = sorted(groups.items(), key=lambda item: (-item[1].sum(), item[0]))
            rows = [
                (name, [f"{count.sum():,}", *(f"{share:.1%}" for share in count[present] / count.sum())])
                for name, count in ordered[:_MOST_ROWS]
            ]
            tables.append((title, heading, rows, len(ordered) - len(rows)))
    return tables


def _examples(statistics):
    titles = {
        "kept": "Kept, the strongest for their trace",
        "weak": "Dropped as weak, the most text for the least strength",
        "one-sided": "Dropped as one-sided, the strongest for their trace",
        "against": "Dropped as speaking against the answer, the strongest for their trace",
    }
    return [
        (titles[group], group, [(example, _shortened(example.text)) for example in statistics.examples[group]])
        for group in GROUPS
        if statistics.examples[group]
    ]


def _shortened(text):
    text = text.strip()
    return text if len(text) <= _EXAMPLE_CHARACTERS else f"{text[:_EXAMPLE_CHARACTERS].rstrip()} …"


def _names(names):
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _quantile(counts, edges):
    """Upper edge of the bin in which half of the counts lie below."""
    cumulative = np.cumsum(counts)
    return edges[1 + np.searchsorted(cumulative, cumulative[-1] / 2)]


def _data_uri(svg):
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
