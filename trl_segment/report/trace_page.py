"""One trace as a page for the browser."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..printing import json_ready
from ..selection import SelectionConfig, select
from ..store import StoredAttribution
from ..traces import Trace
from .page import render_page
from .verdicts import describe_reliability


# The fields of `SelectionConfig` that decide what a trace keeps: the page re-selects with them, but for a draw
PAGE_THRESHOLDS = (
    "selection",
    "tau",
    "min_strength",
    "beta",
    "consistency_scale",
    "min_direction",
    "keep_first",
    "keep_last",
    "min_tokens_to_mask",
    "min_gain",
    "seed",
)


@dataclass(frozen=True)
class Neighbors:
    """
    What a trace's page leads to.

    Args:
        list_address (`str`):
            Address of the page with the list of traces.
        previous, next (`tuple[str, str]` or `None`):
            Name and address of the trace before and the one after.
    """

    list_address: str
    previous: tuple[str, str] | None
    next: tuple[str, str] | None


def render_trace_page(
    name: str,
    trace: Trace,
    row: StoredAttribution,
    config: SelectionConfig,
    settings: Mapping[str, Any] | None = None,
    token_attributions: tuple[np.ndarray, np.ndarray] | None = None,
    roles: Sequence[str] | None = None,
    neighbors: Neighbors | None = None,
) -> str:
    """
    The page of a trace: text, segments, scores, and the selection, which the reader can change.

    Args:
        name (`str`):
            Name of the trace.
        trace ([`~trl_segment.Trace`]):
            The trace.
        row ([`~trl_segment.attribution.StoredAttribution`]):
            Its stored attributions.
        config ([`~trl_segment.SelectionConfig`]):
            Thresholds that the page opens with.
        settings (`Mapping`, *optional*):
            What made the scores, shown at the foot.
        token_attributions (`tuple[np.ndarray, np.ndarray]`, *optional*):
            First character of each token in `trace.completion` and its signed attribution in nats, both of shape
            (tokens,), as [`~trl_segment.attribution.attribute_tokens`] returns them. Without them tokens cannot be
            shaded.
        roles (`Sequence[str]`, *optional*):
            Known role of each segment, where a dataset has them. Ignored if there are not as many as segments.
        neighbors ([`Neighbors`], *optional*):
            Where the page leads to, if it is one of many.

    Returns:
        `str`: An HTML document that needs no other file and no network.
    """
    problem = trace.problem or row.problem
    segments = [{"text": text} for text in trace.segment_texts]
    if problem is None:
        given = {name: getattr(row, name) for name in ("num_tokens", "sum_abs", "sum_signed", "scores")}
        for column, values in given.items():
            for segment, value in zip(segments, values or [], strict=values is not None):
                segment["score" if column == "scores" else column] = value
        selection = select(row.segment_scores, config, trace.key)
        if roles is not None and len(roles) == len(segments):
            for segment, role in zip(segments, roles, strict=True):
                segment["role"] = str(role)
        if token_attributions is not None:
            _add_tokens(segments, trace, *token_attributions)
    start, end = trace.reasoning
    prompt = trace.prompt if isinstance(trace.prompt, list) else [{"role": "prompt", "content": trace.prompt}]
    data = {
        "name": name,
        "answer": trace.answer,
        "problem": problem,
        "prompt": [{"role": str(turn.get("role", "")), "text": _content(turn.get("content"))} for turn in prompt],
        "before": trace.completion[:start],
        "response": trace.completion[end:],
        # Without segments there is still a text to show
        "unsegmented": "" if segments else trace.completion[start:end],
        "segments": segments,
        "thresholds": {name: getattr(config, name) for name in PAGE_THRESHOLDS},
        # A draw cannot be made again by the page
        "drawn": list(selection.verdicts) if problem is None and config.selection == "random" else None,
        "scores": {
            field.name: getattr(row, field.name)
            for field in fields(row)
            if field.name not in ("key", "name", "problem", "num_tokens", "sum_abs", "sum_signed", "scores")
        },
        "settings": dict(settings or {}),
        "reliability": describe_reliability(row) if problem is None else None,
    }
    return render_page(
        "trace.html.jinja",
        ("common.css", "trace.css"),
        ("common.js", "selection.js", "trace.js"),
        name=name,
        neighbors=neighbors,
        data=json_ready(data),
    )


def _add_tokens(segments, trace, starts, values):
    """
    Per segment: the lengths of its tokens (in UTF-16 units, which JavaScript counts in) and their attributions. A
    segment that starts inside a token begins with that token's rest, which counts 0: the token counts where it begins,
    as in the stored sums. So does text that no token stands for.
    """
    starts, values = np.asarray(starts), np.asarray(values)
    for segment, (start, end) in zip(segments, trace.segments, strict=True):
        first, last = np.searchsorted(starts, (start, end))
        cuts, pieces = [], []
        if first == len(starts) or starts[first] > start:
            cuts, pieces = [start], [0.0]
        # Tokens that share a character (byte fallback) share a piece
        for position, value in zip(starts[first:last].tolist(), values[first:last], strict=True):
            if cuts and cuts[-1] == position:
                pieces[-1] += float(value)
            else:
                cuts.append(position)
                pieces.append(float(value))
        bounds = [*cuts, end]
        segment["token_lengths"] = [
            len(trace.completion[a:b].encode("utf-16-le", "surrogatepass")) // 2 for a, b in itertools.pairwise(bounds)
        ]
        segment["token_values"] = pieces


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(
        part.get("text") or f"[{part.get('type')}]" if isinstance(part, dict) else str(part) for part in parts
    )
