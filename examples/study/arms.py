"""Arms of a study: ways to choose what is trained, and what each keeps of traces that are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from trl_segment.traces import TraceConfig


# No segment is kept for its place
FREE = ("--keep_first", "0", "--keep_last", "0")
# The strongest, whatever their consistency
ALL_STRONG = ("--beta", "1")
# Strength 1 for useful segments, see `write_oracle_store`
_TRUE_ROLES = ("--selection", "threshold", "--min_strength", "0.5")
ORACLE = (*_TRUE_ROLES, *FREE)
ORACLE_AND_END = (*_TRUE_ROLES, "--keep_first", "0", "--keep_last", "1")


@dataclass(frozen=True)
class Arm:
    """
    One way to choose what is trained.

    Args:
        name (`str`):
            Name in tables.
        scorer (`str`, *optional*):
            Store to select from; `"oracle"` is that of the true roles, `None` that nothing is selected: full SFT.
        options (`tuple[str, ...]`):
            Options of the selection for `trl-segment sft`, each followed by its value.
        matched (`bool`):
            Whether `tau` is set so that as large a share of the segments is kept as by the study's rule of reference.
    """

    name: str
    scorer: str | None = None
    options: tuple[str, ...] = ()
    matched: bool = False


@dataclass
class Selected:
    """
    What a selection keeps of one trace; arrays of shape (segments,).

    Args:
        roles (`list[str]`, *optional*):
            Role of every segment, where known.
        kept (`np.ndarray`):
            Whether each is kept.
        strength (`np.ndarray`):
            Strengths.
        num_tokens (`np.ndarray`):
            Token counts.
    """

    roles: list[str] | None
    kept: np.ndarray
    strength: np.ndarray
    num_tokens: np.ndarray


def option_values(options: tuple[str, ...]) -> dict:
    """Options of a command as fields and their values: `("--tau", "1")` as `{"tau": 1}`."""
    names = [option.removeprefix("--") for option in options[::2]]
    return dict(zip(names, map(_value, options[1::2]), strict=True))


def _value(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def select_traces(rows: list[dict], store: Path, options: dict, config: TraceConfig | None = None) -> list[Selected]:
    """
    What `trl-segment sft` will keep.

    Args:
        rows (`list[dict]`):
            Rows of the dataset.
        store (`Path`):
            Folder of the scores.
        options (`dict`):
            Fields of the selection; those of training alone are left out.
        config ([`TraceConfig`], *optional*):
            How rows are read.

    Returns:
        `list[Selected]`: One for each row whose trace the store holds. Others are trained in full.
    """
    from trl_segment import AttributionStore, SelectionConfig, build_trace
    from trl_segment.selection import select

    selection = SelectionConfig(**{k: v for k, v in options.items() if k != "dropped_segments"}, seed=0)
    scored = AttributionStore(store)
    result = []
    for row in rows:
        key = build_trace(row, config).key
        if key in scored:
            scores = scored[key].segment_scores
            kept = select(scores, selection, key).kept
            result.append(Selected(row.get("roles"), kept, scores.strength, scores.num_tokens))
    return result


def share_kept(selected: list[Selected]) -> float:
    """Share of all segments that are kept."""
    return float(np.concatenate([one.kept for one in selected]).mean())


def matched_tau(rows: list[dict], store: Path, wanted: float, config: TraceConfig | None = None) -> float:
    """The `tau` at which a store's strongest segments are the share of all that is wanted."""
    low, high = 0.0, 1.0
    for _ in range(12):
        tau = (low + high) / 2
        share = share_kept(select_traces(rows, store, {**option_values(ALL_STRONG), "tau": round(tau, 6)}, config))
        low, high = (tau, high) if share < wanted else (low, tau)
    return round(tau, 4)


def write_oracle_store(
    rows: list[dict], scored: Path, folder: Path, useful_roles: Collection[str], config: TraceConfig | None = None
) -> None:
    """
    Writes a store in which a useful segment has strength 1 and any other 0.

    Args:
        rows (`list[dict]`):
            Rows with `roles`.
        scored (`Path`):
            A store of the same traces, which says how many tokens each segment has.
        folder (`Path`):
            The store to write.
        useful_roles (`Collection[str]`):
            Roles that count as useful.
        config ([`TraceConfig`], *optional*):
            How rows are read.
    """
    from trl_segment import AttributionStore, build_trace
    from trl_segment.store import StoredAttribution

    attributed = AttributionStore(scored)
    settings = dataclasses.replace(attributed.settings, scorer="oracle", options={})
    store = AttributionStore(folder, settings)
    for row in rows:
        one = attributed[build_trace(row, config).key]
        store.add(
            StoredAttribution(
                key=one.key,
                name=one.name,
                num_tokens=one.num_tokens,
                scores=[float(role in useful_roles) for role in row["roles"]],
                sequence_tokens=one.sequence_tokens,
            )
        )
    store.flush()


def mean_evaluations(store: Path) -> float:
    """Gradient evaluations a trace in a store."""
    from trl_segment import AttributionStore

    scored = AttributionStore(store)
    return float(np.mean([scored[key].evaluations for key in scored]))
