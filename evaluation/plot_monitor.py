"""`monitor.png`: every trained score beside what watches it, on held-out scenes."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation import present
from evaluation.charts import span
from evaluation.monitor_view import aligned, label
from evaluation.names import titled
from evaluation.plot import GRID, INK, MUTED, TONES
from evaluation.run_data import RunData

RED = "#b3362b"
MARGINS = {"left": 0.05, "right": 0.94, "top": 0.82, "bottom": 0.1, "hspace": 0.5, "wspace": 0.3}


def plot_monitor(run: RunData, path: Path) -> None:
    """Draw both lines of every dimension into a PNG; each starts its right axis where the left one starts."""
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 10, "axes.edgecolor": GRID, "text.color": INK}):
        rows = max(2, (len(run.monitored) + 1) // 2)
        figure = Figure(figsize=(11.5, 2.85 * rows), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(rows, 2, **MARGINS)
        for k, name in enumerate(run.monitored):
            _panel(figure.add_subplot(grid[k // 2, k % 2]), run, name)
        figure.text(MARGINS["left"], 0.952, "Trained scores and what watches them", size=15, weight="bold", va="center")
        raised = [name for name in run.monitored if run.parted(name)]
        facts = [run.name, f"{run.iterations} iterations", f"alarm: {', '.join(raised)}" if raised else "no alarm"]
        text = "  ·  ".join(facts).replace("$", r"\$")
        figure.text(MARGINS["left"], 0.905, text, size=9.5, color=RED if raised else MUTED, va="center")
        marks = [
            Line2D([], [], color=INK, lw=2, marker="o", ms=6),
            Line2D([], [], color=INK, lw=1.2, ls="--", marker="o", ms=5, mfc="white"),
        ]
        figure.legend(
            marks, ["trained score (left)", "what watches it ± standard error (right)"],
            loc="center right", bbox_to_anchor=(MARGINS["right"] + 0.04, 0.952), ncols=2, frameon=False,
            labelcolor=MUTED, fontsize=9.5,
        )  # fmt: skip
        figure.savefig(path)


def _panel(axes: Axes, run: RunData, name: str) -> None:
    trained, watched, watcher = run.heldout(name), run.watched(name), present.watcher(name, run.judges.get(name))
    tone = TONES[run.tone(name)]
    axes.set_title(titled(name), loc="left", color=tone, weight="bold", size=11, pad=8)
    axes.set_title(label(run, name), loc="right", color=MUTED, size=9, pad=8)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlim(-0.02 * max(run.iterations, 1), 1.04 * max(run.iterations, 1))
    if trained:
        axes.plot(*zip(*[(p.version, p.mean) for p in trained], strict=True), color=tone, lw=2, marker="o", ms=6)
    if not watched:
        axes.text(0.5, 0.12, "not watched", transform=axes.transAxes, ha="center", color=MUTED)
        return
    shown = aligned(trained, watched, watcher.height)
    x, y, errors = zip(*[(p.version, p.mean, p.stderr or 0.0) for p in shown], strict=True)
    axes.errorbar(x, y, errors, color=INK, lw=1.2, ls="--", marker="o", ms=5, mfc="white", elinewidth=1.2, capsize=3)
    axes.set_ylim(*span([p.mean + side * (p.stderr or 0.0) for p in (*trained, *shown) for side in (-1, 1)]))
    if (parted := run.parted(name)) is not None:
        axes.axvspan(*parted, color=RED, alpha=0.1, lw=0)
        for alarm in run.alarms:
            if alarm["dimension"] == name:
                axes.axvline(alarm["iteration"], color=RED, lw=1.4)
    offset = shown[0].mean - watched[0].mean / watcher.height

    def measured(y: Any) -> Any:
        return (y - offset) * watcher.height

    def drawn(value: Any) -> Any:
        return offset + value / watcher.height

    right = axes.secondary_yaxis("right", functions=(measured, drawn))
    right.tick_params(length=3, colors=INK, labelsize=8)
    right.spines["right"].set_visible(False)
    right.set_ylabel(watcher.unit.strip(), color=MUTED, size=9)
