"""`rewards.png`: the rewards and their total over training, for a README or a slide."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.charts import smooth, span
from evaluation.names import titled
from evaluation.run_data import RunData

TONES = {"semantic": "#3b68d6", "temporal": "#bd620a", "aesthetic": "#14805f", "spatial": "#a13f9b", "total": "#1b1e25"}
TONES |= {"extra0": "#2c7a91", "extra1": "#8a6d12", "extra2": "#6554c0", "extra3": "#a3414a"}
INK, MUTED, GRID = "#1b1e25", "#666c78", "#e4e6eb"
MARGINS = {"left": 0.05, "right": 0.985, "top": 0.8, "bottom": 0.1, "hspace": 0.42, "wspace": 0.24}


def plot_rewards(run: RunData, path: Path) -> None:
    """Draw training and held-out rewards of a run into a PNG; panels without data say so."""
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 10, "axes.edgecolor": GRID, "text.color": INK}):
        across = max(2, (len(run.dimensions) + 1) // 2)
        figure = Figure(figsize=(6.1 + 2.7 * across, 5.7), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2 + across, width_ratios=(1.05, 1.05, *[1] * across), **MARGINS)
        places = {"total": grid[:, :2]}
        places |= {d: grid[i // across, 2 + i % across] for i, d in enumerate(run.dimensions)}
        for column, place in places.items():
            _panel(figure.add_subplot(place), run, column, _limits(run, column), large=column == "total")
        _title(figure, run)
        figure.savefig(path)


def _limits(run: RunData, column: str) -> tuple[float, float]:
    """Range of a panel: of all that are drawn on its scale, the total with them where it is."""
    beside = run.beside(column)
    together = ["total"] if column == "total" or run.beside("total") == beside else []
    return span([y for name in dict.fromkeys([*beside, *together]) for y in _values(run, name)])


def _values(run: RunData, column: str) -> list[float]:
    return [y for _, y in smooth(run.training(column))] + [p.mean for p in run.heldout(column)]


def _title(figure: Figure, run: RunData) -> None:
    facts = [run.name, f"{run.iterations} iterations"]
    facts += [f"preset {run.summary['preset']}"] if "preset" in run.summary else []
    figure.text(MARGINS["left"], 0.952, "Rewards during post-training", size=15, weight="bold", va="center")
    figure.text(MARGINS["left"], 0.9, "  ·  ".join(facts).replace("$", r"\$"), size=9.5, color=MUTED, va="center")
    marks = [Line2D([], [], color=INK, lw=2.2), Line2D([], [], color=INK, ls="none", marker="o", ms=6)]
    figure.legend(
        marks,
        ["training samples", "held-out scenes ± standard error"],
        loc="center right",
        bbox_to_anchor=(MARGINS["right"] + 0.008, 0.952),
        ncols=2,
        frameon=False,
        labelcolor=MUTED,
        fontsize=9.5,
        handlelength=1.6,
        handletextpad=0.6,
        columnspacing=2,
    )


def _panel(axes: Axes, run: RunData, column: str, limits: tuple[float, float], large: bool) -> None:
    tone, training, heldout = TONES[run.tone(column)], run.training(column), run.heldout(column)
    axes.set_ylim(*limits)
    axes.set_xlim(-0.02 * max(run.iterations, 1), 1.04 * max(run.iterations, 1))
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=9 if large else 8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if training:
        axes.plot(*zip(*training, strict=True), color=tone, alpha=0.22, lw=0.9)
        axes.plot(*zip(*smooth(training), strict=True), color=tone, lw=2.4 if large else 1.9, solid_capstyle="round")
    if heldout:
        x, y, errors = zip(*[(p.version, p.mean, p.stderr or 0.0) for p in heldout], strict=True)
        axes.errorbar(x, y, errors, color=tone, ls="none", elinewidth=1.6, capsize=3, zorder=3)
        axes.plot(x, y, color=tone, ls="none", marker="o", ms=8 if large else 6, mec="white", mew=1.2, zorder=4)
    if not training and not heldout:
        axes.text(0.5, 0.5, "not scored yet", transform=axes.transAxes, ha="center", color=MUTED)
    axes.set_title(titled(column), loc="left", color=tone, weight="bold", size=13 if large else 11, pad=8)
    if len(heldout) > 1:
        change = f"{heldout[0].mean:.3f} → {heldout[-1].mean:.3f}"
        axes.set_title(change, loc="right", color=INK, size=12 if large else 9.5, pad=8)
    if large:
        axes.set_xlabel("updates", color=MUTED, size=9)
