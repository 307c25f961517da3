"""One trace in the terminal."""

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..printing import printable
from ..selection import SelectionConfig, select
from ..store import StoredAttribution
from ..traces import Trace


# Segments that are drawn, half of them from the start of the trace
_MOST_SHOWN = 1000


def render_trace(name: str, trace: Trace, row: StoredAttribution, config: SelectionConfig) -> RenderableType:
    """
    A table of segments with their scores and verdicts, then the reasoning with dropped segments dimmed.

    Args:
        name (`str`):
            Name of the trace.
        trace ([`~trl_segment.Trace`]):
            The trace.
        row ([`~trl_segment.attribution.StoredAttribution`]):
            Its stored attributions.
        config ([`~trl_segment.SelectionConfig`]):
            Thresholds.

    Returns:
        `RenderableType`: For a [`rich.console.Console`].
    """
    problem = trace.problem or row.problem
    if problem is not None:
        return Text(f"{printable(name)} is trained in full: {printable(problem)}")
    scores = row.segment_scores
    selection = select(scores, config, trace.key)
    kept, strength, consistency = selection.kept, scores.strength, scores.consistency
    share = strength / max(strength.sum(), np.finfo(float).tiny)

    table = Table(box=box.SIMPLE, expand=True)
    # In a narrow terminal the text gives way, not the numbers
    for heading, width in (("#", 3), ("tokens", 6), ("strength", 9), ("share", 6), ("consistency", 11), ("sum", 9)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    table.add_column("verdict", no_wrap=True, min_width=18)
    table.add_column("opens with", no_wrap=True, ratio=1)
    texts = trace.segment_texts
    # Both ends of a very long trace: a table of tens of thousands of rows takes a minute, and nobody reads it
    hidden = range(_MOST_SHOWN // 2, max(len(texts) - _MOST_SHOWN // 2, _MOST_SHOWN // 2))
    shown = [i for i in range(len(texts)) if i not in hidden]
    for i in shown:
        if hidden and i == hidden.stop:
            table.add_row(
                "...", *[""] * 6, f"{len(hidden):,} more segments, all of them with --html FILE", style="dim"
            )
        table.add_row(
            str(i + 1),
            f"{row.num_tokens[i]:,}",
            f"{strength[i]:.4g}",
            f"{share[i]:.1%}",
            f"{consistency[i]:.2f}" if scores.directed else "–",
            f"{scores.sum_signed[i]:+.4g}" if scores.directed else "–",
            selection.verdicts[i],
            escape(printable(" ".join(texts[i].split())[:60])),
            style=None if kept[i] else "dim",
        )
    tokens = np.asarray(row.num_tokens)
    header = Text(
        f"{printable(name)}   answer {printable(trace.answer)}\n"
        f"log p(answer) {row.f_input:.3f}{_completeness(row)} after {row.evaluations} gradient evaluations\n"
        f"{_reliability(row)}"
        f"kept {kept.sum()} of {len(kept)} segments, {tokens[kept].sum():,} of {tokens.sum():,} tokens "
        f"({tokens[kept].sum() / max(tokens.sum(), 1):.1%}), {_rule(config, scores.directed)}"
    )
    body = Text()
    # Color by strength: the strongest third of the kept ones stand out
    bound = np.quantile(strength[kept], 2 / 3) if kept.any() else np.inf
    for i in shown:
        if hidden and i == hidden.stop:
            body.append(f"\n\n[... {len(hidden):,} more segments]", style="dim")
        style = "dim" if not kept[i] else ("bold green" if strength[i] >= bound else "green")
        body.append(f"[{i + 1}]", style="dim" if not kept[i] else "bold cyan")
        body.append(printable(texts[i]), style=style)
    return Group(header, table, body)


def _completeness(row: StoredAttribution) -> str:
    """What is known of the quadrature error; nothing where nothing was integrated."""
    if row.f_baseline is None:
        return ""
    if row.completeness_gap is None:
        return f", without the reasoning {row.f_baseline:.3f}"
    gap = abs(row.completeness_gap) / max(abs(row.f_input - row.f_baseline), np.finfo(float).tiny)
    return f", at the baseline {row.f_baseline:.3f}; completeness gap {row.completeness_gap:+.3g} ({gap:.1%})"


def _reliability(row: StoredAttribution) -> str:
    """Whether the scores are settled, and what speaks against them; nothing where nothing was integrated."""
    reliability = row.reliability
    if reliability is None:
        return ""
    told = (
        f"attributions {reliability.l1:.1f} times the change of F, halves of the nodes correlate to "
        f"{reliability.halves_correlation:.2f}"
    )
    return f"{'settled' if reliability.settled else 'NOT SETTLED'}: {'; '.join(reliability.warnings) or told}\n"


def _rule(config: SelectionConfig, directed: bool) -> str:
    """The selection in a few words, with the thresholds that it reads."""
    bounds = f", beta {config.beta:g}" if directed else ""
    if directed and config.consistency_scale != "absolute":
        bounds += f" ({config.consistency_scale})"
    if directed and config.min_direction > -1:
        bounds += f", direction at least {config.min_direction:g}"
    return {
        "attribution": f"tau {config.tau:g}{bounds}",
        "threshold": f"strength at least {config.min_strength:g}{bounds}",
        "random": f"drawn at random, as many as with tau {config.tau:g}{bounds}",
        "all": "every segment",
    }[config.selection]
