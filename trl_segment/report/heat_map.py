"""Heat maps of a sweep over thresholds."""

import os
from collections.abc import Mapping

import numpy as np

from ..evaluation.tuning import Sweep


def draw_sweeps(
    sweeps: Mapping[str, Sweep], path: str | os.PathLike, reference: tuple[float, float], unit: str
) -> None:
    """
    Draw the gap over `tau` and `beta`, a panel per sweep, on one color scale.

    Args:
        sweeps (`Mapping[str, Sweep]`):
            Sweeps ([`~trl_segment.evaluation.tuning.Sweep`]) by title.
        path (`str` or `os.PathLike`):
            Image file; its ending says the format.
        reference (`tuple[float, float]`):
            The pair (`tau`, `beta`) in use, marked with a circle. The best is marked with a star, pairs that cannot be
            told from it with a dot. Pairs that keep or drop too little to be judged are grey.
        unit (`str`):
            Unit of the gains.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(sweeps), 3)
    rows = -(-len(sweeps) // columns)
    figure = Figure(figsize=(1 + 4.2 * columns, 0.6 + 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    largest = max((np.abs(s.gap[s.eligible]).max() for s in sweeps.values() if s.eligible.any()), default=1.0) or 1.0
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat[len(sweeps) :]:
        panel.set_axis_off()
    for panel, (title, sweep) in zip(axes.flat, sweeps.items(), strict=False):
        panel.set_facecolor("0.85")
        gap = np.where(sweep.eligible, sweep.gap, np.nan)
        image = panel.imshow(gap, cmap="RdBu", vmin=-largest, vmax=largest, origin="lower", aspect="auto")
        for i, j in np.argwhere(sweep.equal):
            panel.plot(j, i, ".", color="black", markersize=3)
        if sweep.best is not None:
            panel.plot(sweep.best[1], sweep.best[0], "*", color="gold", markeredgecolor="black", markersize=13)
        tau, beta = reference
        if tau in sweep.taus and beta in sweep.betas:
            place = (sweep.betas.index(beta), sweep.taus.index(tau))
            panel.plot(*place, "o", fillstyle="none", color="black", markersize=10)
        panel.set_xticks(range(len(sweep.betas)), [f"{beta:g}" for beta in sweep.betas], rotation=45)
        panel.set_yticks(range(len(sweep.taus)), [f"{tau:g}" for tau in sweep.taus])
        panel.set_xlabel("beta")
        panel.set_ylabel("tau")
        panel.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, label=f"gain of kept minus dropped segments ({unit} per segment)")
    figure.savefig(path, dpi=120)
