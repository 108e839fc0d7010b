"""`losses.png`: training and validation loss of a supervised run, and its learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.plot import GRID, INK, MUTED

TRAINING, VALIDATION = "#3b68d6", "#bd620a"
POINTS = 400


def plot_losses(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the records of a run's metrics.jsonl into a PNG; what was not measured is left out."""
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 10, "axes.edgecolor": GRID, "text.color": INK}):
        figure = Figure(figsize=(9.5, 4.6), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.075, 0.12, 0.85, 0.74))
        _losses(axes, records)
        rate = axes.twinx()
        steps, rates = _series(records, "lr")
        rate.plot(*means(steps, rates), color=MUTED, lw=1, ls=":", label="learning rate (right)")
        rate.set_ylim(0, 1.1 * max(rates, default=1.0))
        for side in (axes, rate):
            side.tick_params(length=0, colors=MUTED, labelsize=9)
            side.spines[["top", "right", "left"]].set_visible(False)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.set_xlabel("steps", color=MUTED, size=9)
        lines = [*axes.get_lines(), *rate.get_lines()]
        shown = [line for line in lines if not str(line.get_label()).startswith("_")]
        anchor = {"loc": "center right", "bbox_to_anchor": (0.93, 0.95), "ncols": 3}
        figure.legend(handles=shown, frameon=False, labelcolor=MUTED, fontsize=9, **anchor)
        figure.text(0.075, 0.95, title.replace("$", r"\$"), size=13, weight="bold", va="center")
        figure.savefig(path)


def means(steps: Sequence[float], values: Sequence[float], points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Means over at most `points` runs of neighbours: (steps, values)."""
    blocks = max(1, min(points, len(values)))
    x, y = (np.array_split(np.asarray(part, float), blocks) for part in (steps, values))
    return np.array([b.mean() for b in x if b.size]), np.array([b.mean() for b in y if b.size])


def _losses(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    steps, losses = _series(records, "loss")
    if losses:
        axes.plot(*means(steps, losses), color=TRAINING, alpha=0.25, lw=0.9)
        axes.plot(*means(steps, losses, 60), color=TRAINING, lw=2, label="training loss")
    validated = [(r["version"], r["validation"]["loss"]) for r in records if r.get("validation")]
    if validated:
        axes.plot(*zip(*validated, strict=True), color=VALIDATION, lw=2, marker="o", ms=4, label="validation loss")
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    known = [(r["version"], r[name]) for r in records if r.get(name) is not None]
    return [float(step) for step, _ in known], [float(value) for _, value in known]
