"""Figures of a dataset's statistics, drawn by matplotlib without a display."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..printing import printable
from .statistics import (
    CONSISTENCY_EDGES,
    CURVE_EDGES,
    CURVE_GRID,
    GAP_EDGES,
    GROUPS,
    LENGTH_EDGES,
    POSITION_EDGES,
    REPETITION_EDGES,
    STRENGTH_EDGES,
    DatasetStatistics,
)


_MOST_BARS = 12
_FEWEST_SEGMENTS_OF_MEAN = 5
_LONGEST_NAME = 30
# Of a figure's width: the fonts of a reader may be wider than ours
_LEGEND_SHARE = 0.95


@dataclass(frozen=True)
class Theme:
    """
    Colors of a figure.

    Args:
        ink, muted, grid (`str`):
            Text, axes, grid lines.
        groups (`tuple[str, str, str]`):
            Kept, weak, one-sided segments and those against the answer.
        accent (`str`):
            Lines that mark something.
    """

    ink: str
    muted: str
    grid: str
    groups: tuple[str, str, str, str]
    accent: str


LIGHT = Theme("#1d2126", "#626973", "#e2e3e0", ("#119c76", "#8c939c", "#d9772f", "#b05fc4"), "#2f6df0")
DARK = Theme("#e4e7eb", "#98a1ad", "#2f363f", ("#23b98b", "#6e7883", "#d9772f", "#b672c8"), "#6f9dff")
GROUP_LABELS = tuple(group if group == "kept" else f"dropped, {group}" for group in GROUPS)


def draw_figures(statistics: DatasetStatistics, theme: Theme, file_format: str) -> dict[str, bytes]:
    """
    Draw every figure that the statistics have numbers for.

    Args:
        statistics ([`~trl_segment.report.statistics.DatasetStatistics`]):
            The numbers.
        theme ([`Theme`]):
            Colors.
        file_format (`str`):
            `"svg"` (transparent, its text left to the fonts of the reader) or `"png"` (white, 160 dots per inch).

    Returns:
        `dict[str, bytes]`: File contents by name of the figure.
    """
    style = {
        "axes.axisbelow": True,
        "axes.edgecolor": theme.muted,
        "axes.grid": True,
        "axes.labelcolor": theme.muted,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.family": "sans-serif",
        "font.size": 9,
        "grid.color": theme.grid,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "trl-segment",
        "text.color": theme.ink,
        # Openers are text of traces, in which a dollar is a dollar
        "text.parse_math": False,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
    }
    drawn = {}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The reader's fonts may have what ours lack
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for name, draw in _figures(statistics).items():
            figure = Figure(figsize=(4.4, 3.1), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            draw(axes, statistics, theme)
            _add_legend(figure)
            sink = io.BytesIO()
            if file_format == "svg":
                figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
            else:
                figure.savefig(sink, format=file_format, facecolor="white", dpi=160)
            drawn[name] = sink.getvalue()
    return drawn


def _add_legend(figure):
    """A legend above the axes with as many columns as the figure has room for."""
    for columns in range(4, 0, -1):
        legend = figure.legend(loc="outside upper left", ncols=columns, columnspacing=1.4, handlelength=1.4)
        if columns == 1 or legend.get_window_extent().width <= _LEGEND_SHARE * figure.bbox.width:
            return
        legend.remove()


def _figures(statistics) -> dict[str, Callable[[Axes, DatasetStatistics, Theme], None]]:
    figures = {
        "cumulative_attribution": _draw_curve,
        "strength": _draw_strength,
        "consistency": _draw_consistency,
        "consistency_by_length": _draw_consistency_by_length,
        "position": _draw_position,
        "length": _draw_length,
    }
    if statistics.openers:
        figures |= {"openers": _draw_openers, "repetition": _draw_repetition}
    if statistics.faithfulness is not None:
        figures |= {"sufficiency": _draw_sufficiency, "necessity": _draw_necessity}
    if statistics.roles:
        figures["roles"] = _draw_roles
    if statistics.gaps.any():
        figures["completeness"] = _draw_gaps
    if any(statistics.evaluations):
        figures["evaluations"] = _draw_evaluations
    return figures


def curve_quantiles(statistics: DatasetStatistics, quantiles: tuple[float, ...]) -> np.ndarray:
    """
    Quantiles over traces of the share of strength that the strongest segments hold.

    Args:
        statistics ([`~trl_segment.report.statistics.DatasetStatistics`]):
            The numbers.
        quantiles (`tuple[float, ...]`):
            Which, in [0, 1].

    Returns:
        `np.ndarray`: Shape (quantiles, points of `CURVE_GRID`), right to half a bin of `CURVE_EDGES`.
    """
    middle = (CURVE_EDGES[:-1] + CURVE_EDGES[1:]) / 2
    cumulative = np.cumsum(statistics.curve, axis=1)
    values = np.array(
        [
            [middle[np.searchsorted(counts, quantile * counts[-1])] if counts[-1] else 0 for counts in cumulative]
            for quantile in quantiles
        ]
    )
    values[:, 0], values[:, -1] = 0, 1
    return values


def _draw_curve(axes, statistics, theme):
    low, middle, high = curve_quantiles(statistics, (0.1, 0.5, 0.9))
    axes.axvspan(0.3, 0.4, color=theme.grid, lw=0, label="80 %, by the paper")
    axes.fill_between(CURVE_GRID, low, high, color=theme.groups[0], alpha=0.25, lw=0, label="8 of 10 traces")
    axes.plot(CURVE_GRID, middle, color=theme.groups[0], lw=2, label="median trace")
    axes.axhline(0.8, color=theme.muted, lw=0.8, ls=":")
    tau = statistics.thresholds.tau
    axes.axhline(tau, color=theme.accent, lw=1, ls="--", label=f"tau {tau:g}")
    axes.set(xlabel="share of a trace's segments, strongest first", ylabel="share of its strength")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))


def _draw_strength(axes, statistics, theme):
    _stack(axes, STRENGTH_EDGES, statistics.strength, theme)
    ticks = np.arange(-2, 2)
    axes.set_xticks(ticks, [f"{10.0**tick:g}" for tick in ticks])
    axes.set(xlabel="strength, relative to the mean of its trace", ylabel="segments")


def _draw_consistency(axes, statistics, theme):
    _stack(axes, CONSISTENCY_EDGES, statistics.consistency, theme)
    if statistics.thresholds.consistency_scale == "absolute":  # else beta is none of this axis
        beta = statistics.thresholds.beta
        axes.axvline(beta, color=theme.accent, lw=1, ls="--", label=f"beta {beta:g}")
    axes.set(xlabel="direction consistency", ylabel="segments", xlim=(0, 1))


def _draw_consistency_by_length(axes, statistics, theme):
    counts = statistics.length.sum(axis=0)
    enough = counts >= min(_FEWEST_SEGMENTS_OF_MEAN, counts.max(initial=1))
    tokens = 2 ** ((LENGTH_EDGES[:-1] + LENGTH_EDGES[1:]) / 2)
    mean = statistics.consistency_by_length[enough] / counts[enough]
    axes.plot(tokens[enough], mean, "o-", color=theme.groups[0], ms=4, label="mean of the segments")
    axes.plot(tokens[enough], _random_signs(tokens[enough]), color=theme.muted, ls=":", label="random signs")
    if statistics.thresholds.consistency_scale == "absolute":
        beta = statistics.thresholds.beta
        axes.axhline(beta, color=theme.accent, lw=1, ls="--", label=f"beta {beta:g}")
    _scale_tokens(axes, statistics)
    axes.set(ylabel="direction consistency", ylim=(0, 1.02))


def _random_signs(tokens):
    """Expected consistency of tokens of equal size and random sign."""
    return np.minimum(1, np.sqrt(2 / (np.pi * tokens)))


def _draw_position(axes, statistics, theme):
    counts = statistics.position / np.maximum(statistics.position.sum(axis=0), 1)
    _stack(axes, POSITION_EDGES, counts, theme)
    share = statistics.strength_by_position / max(statistics.strength_by_position.sum(), 1e-300)
    middle = (POSITION_EDGES[:-1] + POSITION_EDGES[1:]) / 2
    axes.plot(middle, share / max(share.max(), 1e-300), color=theme.accent, lw=1.5, label="strength (scaled)")
    axes.set(xlabel="position in the trace", ylabel="share of the segments there", xlim=(0, 1), ylim=(0, 1.02))


def _draw_length(axes, statistics, theme):
    for group, label, color in zip(statistics.length, GROUP_LABELS, theme.groups, strict=True):
        if group.sum():
            axes.stairs(group / group.sum(), 2**LENGTH_EDGES, color=color, lw=2, label=label)
    _scale_tokens(axes, statistics)
    axes.set(ylabel="share of its group")


def _scale_tokens(axes, statistics):
    """A logarithmic axis from the shortest to the longest segments."""
    filled = np.flatnonzero(statistics.length.sum(axis=0))
    low, high = np.floor(LENGTH_EDGES[filled[0]]), np.ceil(LENGTH_EDGES[filled[-1] + 1])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="tokens of the segment", xlim=(2**low, 2**high))


def _draw_repetition(axes, statistics, theme):
    for group, label, color in zip(statistics.repetition, GROUP_LABELS, theme.groups, strict=True):
        if group.sum():
            axes.stairs(group / group.sum(), REPETITION_EDGES, color=color, lw=2, label=label)
    axes.set(xlabel="share of the segment's text that stood before", ylabel="share of its group", xlim=(0, 1))


def _draw_openers(axes, statistics, theme):
    _bars(axes, statistics.openers, theme)


def _draw_roles(axes, statistics, theme):
    _bars(axes, statistics.roles, theme)


def _bars(axes, groups, theme):
    most = sorted(groups.items(), key=lambda item: (-item[1].sum(), item[0]))[:_MOST_BARS][::-1]
    counts = np.array([count for _, count in most])
    shares = counts / counts.sum(axis=1, keepdims=True)
    left = np.zeros(len(most))
    for share, label, color in zip(shares.T, GROUP_LABELS, theme.groups, strict=True):
        if not share.any():
            continue
        axes.barh(range(len(most)), share, left=left, color=color, height=0.72, label=label)
        left += share
    # The page's table has long names whole
    names = [printable(name) for name, _ in most]
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    axes.set_yticks(range(len(most)), [f"{name} ({count.sum():,})" for name, count in zip(names, counts, strict=True)])
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of the segments", xlim=(0, 1))


def _draw_sufficiency(axes, statistics, theme):
    summary = statistics.faithfulness
    _draw_comparisons(
        axes, summary, summary.sufficiency_curve, summary.sufficiency, (summary.empty, summary.full), theme
    )
    axes.set(xlabel="share of the tokens that the model reads")


def _draw_necessity(axes, statistics, theme):
    summary = statistics.faithfulness
    _draw_comparisons(axes, summary, summary.necessity_curve, summary.necessity, (summary.full, summary.empty), theme)
    axes.set(xlabel="share of the tokens that are taken away")


def _draw_comparisons(axes, summary, curve, selection, ends, theme):
    """The strongest segments and random ones over the share, between what is known at its ends, and the selection."""
    shares = [0, *summary.shares, 1]
    for name, label, color in (
        ("random", "random segments", theme.muted),
        ("chosen", "strongest segments", theme.groups[0]),
    ):
        estimates = [ends[0], *(getattr(comparison, name) for comparison in curve), ends[1]]
        low, value, high = ([getattr(estimate, bound) for estimate in estimates] for bound in ("low", "value", "high"))
        axes.fill_between(shares, low, high, color=color, alpha=0.2, lw=0)
        axes.plot(shares, value, "o-", color=color, ms=4, lw=2, label=label)
    if summary.judged:
        place = [summary.share.value]
        axes.plot(place, [selection.chosen.value], "*", color=theme.accent, ms=12, label="the selection")
        axes.plot(place, [selection.random.value], "x", color=theme.accent, ms=8, label="random, same ends")
    axes.set(ylabel="confidence in the answer", xlim=(0, 1))


def _draw_gaps(axes, statistics, theme):
    axes.stairs(statistics.gaps, GAP_EDGES, color=theme.groups[0], fill=True, label="completeness gap")
    axes.stairs(statistics.defects, GAP_EDGES, color=theme.groups[2], lw=2, label="defect of the quadrature")
    axes.axvline(-2, color=theme.accent, lw=1, ls="--", label="1 %")
    ticks = np.arange(-5, 2)
    axes.set_xticks(ticks, [f"{100 * 10.0**tick:g} %" for tick in ticks])
    axes.set(xlabel="relative to F(input) - F(baseline)", ylabel="traces")


def _draw_evaluations(axes, statistics, theme):
    numbers = np.array(list(statistics.evaluations.elements()))
    edges = np.histogram_bin_edges(numbers, bins=min(24, max(1, int(np.ptp(numbers)) // 2)))
    axes.hist(numbers, bins=edges, color=theme.groups[0])
    axes.axvline(50, color=theme.accent, lw=1, ls="--", label="the paper's 50")
    axes.set(xlabel="gradient evaluations", ylabel="traces")


def _stack(axes, edges, counts, theme):
    base = np.zeros(counts.shape[1])
    for group, label, color in zip(counts, GROUP_LABELS, theme.groups, strict=True):
        if not group.any():
            continue
        axes.stairs(base + group, edges, baseline=base, color=color, fill=True, label=label)
        base = base + group
