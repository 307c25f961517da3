"""Figure of selection quality by role."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..evaluation.quality import USEFUL_ROLES, SelectionQuality


_LONGEST_NAME = 28


def draw_quality(
    qualities: Mapping[str, SelectionQuality], path: str | Path, useful_roles: Collection[str] = USEFUL_ROLES
) -> None:
    """
    Draw the share of kept segments of every role, one row per selection.

    Args:
        qualities (`Mapping[str, SelectionQuality]`):
            Selections by name.
        path (`str` or `Path`):
            File to write; its suffix decides the format.
        useful_roles (`Collection[str]`, *optional*):
            Roles that should be kept; they stand to the left of the line.
    """
    roles = dict.fromkeys(role for quality in qualities.values() for role in quality.roles)
    roles = sorted(roles, key=lambda role: role not in useful_roles)
    table = np.full((len(qualities), len(roles)), np.nan)
    for i, quality in enumerate(qualities.values()):
        for j, role in enumerate(roles):
            if role in quality.roles:
                table[i, j] = quality.roles[role].kept / quality.roles[role].segments
    # A Figure of its own: pyplot would keep global state and look for a display
    figure = Figure(figsize=(1.6 + 0.75 * len(roles), 1.6 + 0.32 * len(qualities)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for i, quality in enumerate(qualities.values()):
        for j in range(len(roles)):
            if not np.isnan(table[i, j]):
                color = "black" if table[i, j] > 0.6 else "white"
                axes.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=color, fontsize=7)
        axes.text(len(roles) - 0.4, i, f"F1 {quality.f1:.2f}", va="center", fontsize=8)
    axes.axvline(sum(role in useful_roles for role in roles) - 0.5, color="tab:red", linewidth=2)
    axes.set_xticks(range(len(roles)), roles, rotation=35, ha="right", fontsize=8)
    # The end of a long path says more than its beginning, and leaves room for the figure
    names = [name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME + 1 :]}" for name in qualities]
    axes.set_yticks(range(len(qualities)), names, fontsize=8)
    axes.set_title("share of segments kept; left of the line: useful", fontsize=9)
    figure.colorbar(image, pad=0.12, shrink=0.8)
    figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
