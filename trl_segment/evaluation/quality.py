"""How well a selection finds the segments that matter, where a dataset says what each segment does."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..selection import SelectionConfig, always_trained


USEFUL_ROLES = ("useful", "useful_indirect", "correction", "correction_indirect")


@dataclass
class RoleQuality:
    """
    What becomes of the segments of one role.

    Args:
        segments (`int`):
            Number of segments.
        kept (`int`):
            How many of them are kept.
        auc (`float`):
            Area under the curve of strength against the other kind: for a useful role against all redundant segments,
            for a redundant role against all useful ones, always as the probability that the useful segment of a pair
            is the stronger one. NaN without pairs.
    """

    segments: int = 0
    kept: int = 0
    auc: float = float("nan")


@dataclass
class SelectionQuality:
    """
    Kept segments against the truth.

    Args:
        traces (`int`):
            Traces compared.
        precision (`float`):
            Share of kept segments that are useful. NaN if none is kept.
        recall (`float`):
            Share of useful segments that are kept. NaN if none is useful.
        f1 (`float`):
            Harmonic mean of the two, 0 if no useful segment is kept.
        auc (`float`):
            Probability that of a useful and a redundant segment of the same trace the useful one is the stronger (a
            tie counts half). NaN without such a pair.
        precision_by_chance, recall_by_chance, f1_by_chance (`float`):
            What draws at random are expected to reach: as many segments of each trace as are kept, the same ends among
            them. The area by chance is 0.5.
        roles (`dict[str, RoleQuality]`):
            The same by role, in order of first appearance.
    """

    traces: int = 0
    precision: float = float("nan")
    recall: float = float("nan")
    f1: float = 0.0
    auc: float = float("nan")
    precision_by_chance: float = float("nan")
    recall_by_chance: float = float("nan")
    f1_by_chance: float = 0.0
    roles: dict[str, RoleQuality] = field(default_factory=dict)


def selection_quality(
    compared: Iterable[tuple[Sequence[str], np.ndarray, np.ndarray]],
    useful_roles: Collection[str] = USEFUL_ROLES,
    ignored_roles: Collection[str] = (),
    config: SelectionConfig | None = None,
) -> SelectionQuality:
    """
    Compare selections with the roles of the segments.

    Args:
        compared (`Iterable[tuple[Sequence[str], np.ndarray, np.ndarray]]`):
            For each trace the role of every segment, whether it is kept (bool) and its strength, all of shape
            (segments,).
        useful_roles (`Collection[str]`, *optional*):
            Roles that count as useful. Defaults to those of the tiny world.
        ignored_roles (`Collection[str]`, *optional*, defaults to `()`):
            Roles that count neither way.
        config ([`~trl_segment.SelectionConfig`], *optional*):
            Says which ends are always kept, so that draws at random keep them too, as with `selection="random"`. By
            default none is.

    Returns:
        [`SelectionQuality`]: Counts are pooled over traces; pairs for the areas are of segments of the same trace.

    Raises:
        `ValueError`: If a trace has another number of roles than of segments.
    """
    result = SelectionQuality()
    kept_useful = kept_all = useful_all = 0
    useful_by_chance = 0.0
    wins: dict[str | None, list[float]] = {None: [0.0, 0.0]}
    for roles, kept, strength in compared:
        if not len(roles) == len(kept) == len(strength):
            raise ValueError(
                f"A trace has {len(roles)} roles, {len(kept)} kept flags and {len(strength)} strengths; there must be "
                "one of each for every segment. Roles belong to one way of cutting: use the same segmenter."
            )
        result.traces += 1
        useful = np.array([role in useful_roles for role in roles], dtype=bool)
        counted = np.array([role not in ignored_roles for role in roles], dtype=bool)
        kept, strength = np.asarray(kept, dtype=bool), np.asarray(strength, dtype=np.float64)
        kept_useful += int((kept & useful & counted).sum())
        kept_all += int((kept & counted).sum())
        useful_all += int((useful & counted).sum())
        fixed = np.zeros(len(roles), dtype=bool) if config is None else always_trained(len(roles), config) & kept
        free = ~fixed & counted
        useful_by_chance += (fixed & useful & counted).sum()
        if free.any():
            useful_by_chance += (kept & free).sum() * (useful & free).sum() / free.sum()
        for role in dict.fromkeys(roles):
            of_role = np.array([other == role for other in roles])
            entry = result.roles.setdefault(role, RoleQuality())
            entry.segments += int(of_role.sum())
            entry.kept += int((kept & of_role).sum())
            if role in ignored_roles:
                continue
            high, low = (of_role, ~useful & counted) if role in useful_roles else (useful & counted, of_role)
            won, pairs = _wins(strength[high], strength[low])
            total = wins.setdefault(role, [0.0, 0.0])
            total[0], total[1] = total[0] + won, total[1] + pairs
        won, pairs = _wins(strength[useful & counted], strength[~useful & counted])
        wins[None][0] += won
        wins[None][1] += pairs

    if kept_all:
        result.precision = kept_useful / kept_all
        result.precision_by_chance = useful_by_chance / kept_all
    if useful_all:
        result.recall = kept_useful / useful_all
        result.recall_by_chance = useful_by_chance / useful_all
    if kept_all + useful_all:
        result.f1 = 2 * kept_useful / (kept_all + useful_all)
        result.f1_by_chance = 2 * useful_by_chance / (kept_all + useful_all)
    for role, (won, pairs) in wins.items():
        if pairs:
            if role is None:
                result.auc = won / pairs
            else:
                result.roles[role].auc = won / pairs
    return result


def _wins(high: np.ndarray, low: np.ndarray) -> tuple[float, int]:
    """Of all pairs, in how many the first is larger (a tie counts half), and the number of pairs."""
    difference = np.sign(high[:, None] - low[None, :])
    return float((difference + 1).sum() / 2), difference.size


def describe_quality(quality: SelectionQuality, useful_roles: Collection[str] = USEFUL_ROLES) -> str:
    """
    A table for the terminal.

    Args:
        quality ([`SelectionQuality`]):
            What to show.
        useful_roles (`Collection[str]`, *optional*):
            Roles that counted as useful; they come first and carry a star.

    Returns:
        `str`: One line per role and three for the whole.
    """
    lines = [f"{'role':<22} {'segments':>8} {'kept':>8} {'share':>6} {'AUC':>6}"]
    for role in sorted(quality.roles, key=lambda role: role not in useful_roles):
        entry = quality.roles[role]
        name = f"{role} *" if role in useful_roles else role
        lines.append(
            f"{name:<22} {entry.segments:>8,} {entry.kept:>8,} {entry.kept / entry.segments:>6.1%} {entry.auc:>6.3f}"
        )
    lines.append("* counted as useful; AUC: a useful segment is stronger than a redundant one of the same trace")
    figures = {
        "precision": (quality.precision, quality.precision_by_chance),
        "recall": (quality.recall, quality.recall_by_chance),
        "F1": (quality.f1, quality.f1_by_chance),
        "AUC": (quality.auc, 0.5),
    }
    shown = ", ".join(f"{name} {value:.3f} (by chance {chance:.3f})" for name, (value, chance) in figures.items())
    lines.append(f"{quality.traces} traces: {shown}")
    lines.append("by chance: as many segments of each trace, drawn at random but for the ends that are always kept")
    return "\n".join(lines)
