"""The benchmarks' figures as PNG: one colour per method, lines labelled where they end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from benchmarks.curves import DIMENSIONS, Method, needed
from benchmarks.intervals import Interval, student

INK, MUTED, GRID = "#1b1e25", "#666c78", "#e4e6eb"
TONES = {
    "full_sde": "#6b7280",
    "full_sde_cfg": "#a3a9b5",
    "official": "#bd620a",
    "official_no_cfg": "#e09a4a",
    "paper": "#a13f9b",
    "fast": "#3b68d6",
}
NAMES = {
    "full_sde": "full-SDE",
    "full_sde_cfg": "full-SDE, CFG",
    "official": "official, CFG",
    "official_no_cfg": "official, no CFG",
    "paper": "paper",
    "fast": "fast",
}
PARTS = {"rollout": "#3b68d6", "update": "#14805f", "codec": "#e0a82e", "rewards": "#c0506a", "rest": "#b9bec8"}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.edgecolor": GRID, "axes.labelcolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


@contextmanager
def drawing(path: Path, title: str, size: tuple[float, float], **grid: Any) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure with a title and a grid of axes, saved at the end of the block."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=160, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.012, ha="left", size=13, weight="bold")
        axes = figure.subplots(squeeze=False, **grid)
        for ax in axes.flat:
            ax.grid(axis="both", color=GRID, lw=0.7)
            ax.set_axisbelow(True)
            ax.tick_params(length=0)
        yield figure, axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def convergence(methods: Sequence[Method], path: Path) -> None:
    """Held-out total against evaluations and wall seconds, means over seeds with 95 % bands."""
    shown = [m for m in methods if m.name in TONES]
    target = next((m for m in shown if m.name == "full_sde"), None)
    level = target.final().value if target else None
    title = f"Held-out reward on {len(methods[0].seeds[0].clips)} scenes"
    with drawing(path, title, (11.5, 4.8), ncols=2, sharey=True) as (_, axes):
        for ax, budget, label in zip(
            axes[0], ("nfe", "wall_s"), ("velocity evaluations", "seconds of training, one core"), strict=True
        ):
            for method in shown:
                _line(ax, method, method.budget(budget).mean(0), "total")
            if level is not None:
                ax.axhline(level, color=TONES["full_sde"], lw=1, ls=(0, (4, 3)))
                for method in shown:
                    x = needed(method, level, budget)
                    if np.isfinite(x) and x > 0:
                        ax.plot([x], [level], "o", color=TONES[method.name], ms=5, zorder=5)
            _log(ax, label, [m.budget(budget).mean(0) for m in shown])
            _labels(ax, [(m.budget(budget).mean(0)[-1], m.curve().mean(0)[-1], m) for m in shown])
        axes[0, 0].set_ylabel("mean of the four rewards")


def dimensions(methods: Sequence[Method], path: Path) -> None:
    """Each reward's held-out curve against wall seconds."""
    shown = [m for m in methods if m.name in TONES]
    with drawing(path, "The four rewards on held-out scenes", (11.5, 6.4), nrows=2, ncols=2, sharex=True) as (_, axes):
        for ax, name in zip(axes.flat, DIMENSIONS, strict=True):
            for method in shown:
                _line(ax, method, method.budget("wall_s").mean(0), name)
            ax.set_title(name, loc="left", size=10.5)
            label = "seconds of training, one core" if ax in axes[1] else ""
            _log(ax, label, [m.budget("wall_s").mean(0) for m in shown])
            _labels(ax, [(m.budget("wall_s").mean(0)[-1], m.curve(name).mean(0)[-1], m) for m in shown])


def forest(rows: Sequence[tuple[str, tuple[Interval, Interval]]], base: str, path: Path) -> None:
    """Differences to a base: (title, (at equal iterations, at equal CPU seconds)), worst at the top."""
    ordered = sorted(rows, key=lambda row: row[1][1].value)
    height = 1.5 + 0.34 * len(rows)
    with drawing(path, f"What each idea of {base} is worth", (11.5, height), ncols=2, sharex=True, sharey=True) as (
        _,
        axes,
    ):
        for column, (ax, label) in enumerate(zip(axes[0], ("equal iterations", "equal CPU seconds"), strict=True)):
            for place, (_, pair) in enumerate(reversed(ordered)):
                found = pair[column]
                apart = found.high < 0 or found.low > 0
                tone = ("#c0392b" if found.value < 0 else "#14805f") if apart else MUTED
                ax.plot([found.low, found.high], [place, place], color=tone, lw=2, solid_capstyle="round")
                ax.plot([found.value], [place], "o", color=tone, ms=6)
            ax.axvline(0, color=INK, lw=1)
            ax.grid(axis="y", visible=False)
            ax.set_xlabel(f"held-out total minus {base}, {label}")
        axes[0, 0].set_yticks(range(len(rows)), [row[0] for row in reversed(ordered)], color=INK)


def cost(results: dict[str, Any], path: Path, kind: str = "wall") -> None:
    """Seconds of one iteration by part; one panel per T."""
    panels = results["steps"]
    count = max(len(panel["variants"]) for panel in panels.values())
    size = (11.5, 1.6 + 0.42 * count)
    with drawing(path, f"One iteration, {kind} seconds", size, ncols=len(panels), sharey=True) as (figure, axes):
        for ax, (steps, panel) in zip(axes[0], panels.items(), strict=True):
            found = panel["variants"]
            names = list(reversed(list(found)))
            left = np.zeros(len(names))
            for part, tone in PARTS.items():
                width = np.array([max(found[name][kind][part][0], 0.0) for name in names])
                ax.barh(range(len(names)), width, left=left, color=tone, height=0.66, label=part)
                left += width
            for place, name in enumerate(names):
                ratio = found[name][f"{kind}_ratio"]["iteration"][0]
                ax.text(left[place], place, f"  {left[place]:.2f} s  ×{ratio:.1f}", va="center", size=9, color=INK)
            ax.set_xlim(0, left.max() * 1.28)
            ax.set_yticks(range(len(names)), [found[name]["title"] for name in names], color=INK)
            ax.set_xlabel(f"T = {steps}")
            ax.grid(axis="y", visible=False)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(PARTS), frameon=False, fontsize=9, labelcolor=MUTED)


def scaling(results: dict[str, Any], path: Path) -> None:
    """Model seconds of an iteration against each axis, both logarithmic."""
    axes_of = results["axes"]
    with drawing(path, "Model time of one iteration", (14, 3.6), ncols=len(axes_of), sharey=True) as (_, axes):
        for ax, found in zip(axes[0], axes_of.values(), strict=True):
            for name, points in found["methods"].items():
                x, y = np.array([[p["value"], p["model_s"][0]] for p in points]).T
                ax.plot(x, y, "o-", color=TONES[name], lw=2, ms=4.5)
                low, high = np.array([p["model_s"][1:] for p in points], float).T
                ax.fill_between(x, low, high, color=TONES[name], alpha=0.18, lw=0)
                ax.annotate(name, (x[0], y[0]), xytext=(9, -8), textcoords="offset points", size=9, color=TONES[name])
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(x, [f"{v:g}" for v in x])
            ax.minorticks_off()
            ax.set_xlabel(found["label"])
        axes[0, 0].set_ylabel("seconds")
        axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


SOLVER_TONES = {
    "euler": "#6b7280",
    "ab2": "#3b68d6",
    "dpmpp2m": "#14805f",
    "abm3": "#a13f9b",
    "midpoint": "#bd620a",
    "heun": "#e0a82e",
}


def solvers(results: dict[str, Any], path: Path) -> None:
    """Distance to the exact latents, and held-out reward, against velocity evaluations; one column per field."""
    panels = results["panels"]
    with drawing(path, "What a velocity evaluation buys", (15, 6.2), nrows=2, ncols=len(panels)) as (figure, axes):
        for column, panel in enumerate(panels):
            upper, lower = axes[:, column]
            upper.set_title(f"{panel['title']}, w = {panel['guidance']:g}", loc="left", size=10.5)
            for name in dict.fromkeys(point["solver"] for point in panel["points"]):
                points = [point for point in panel["points"] if point["solver"] == name]
                x, tone = [point["nfe"] for point in points], SOLVER_TONES.get(name, INK)
                upper.plot(x, [100 * point["distance"] for point in points], "o-", color=tone, lw=1.8, ms=4, label=name)
                if panel["exact"]:
                    lower.plot(x, [p["rewards"]["total"] for p in points], "o-", color=tone, lw=1.8, ms=4)
            upper.set_yscale("log")
            upper.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} %"))
            budgets = sorted({point["nfe"] for point in panel["points"]})
            for ax in (upper, lower):
                ax.set_xscale("log", base=2)
                ax.set_xticks(budgets, [f"{v:g}" for v in budgets])
                ax.minorticks_off()
            if panel["exact"]:
                lower.axhline(panel["exact"]["total"], color=INK, lw=1, ls=(0, (4, 3)))
                lower.set_xlabel("velocity evaluations")
            else:
                lower.set_visible(False)
                upper.set_xlabel("velocity evaluations")
        axes[0, 0].set_ylabel("distance to the exact latents")
        axes[1, 0].set_ylabel("mean of the four rewards")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper right", ncols=len(labels), frameon=False, fontsize=9, labelcolor=MUTED
        )


def _line(ax: Axes, method: Method, x: np.ndarray, column: str) -> None:
    curves, tone = method.curve(column), TONES[method.name]
    # The start costs nothing and has no place on a logarithmic axis.
    x, curves = x[1:], curves[:, 1:]
    bounds = [student(values) for values in curves.T]
    ax.plot(x, curves.mean(0), color=tone, lw=2.4 if method.name == "fast" else 1.8)
    ax.fill_between(x, [b.low for b in bounds], [b.high for b in bounds], color=tone, alpha=0.15, lw=0)


def _log(ax: Axes, label: str, curves: Sequence[np.ndarray]) -> None:
    low, high = min(x[1] for x in curves), max(x[-1] for x in curves)
    ax.set_xscale("log")
    ax.set_xlim(low * 0.8, high * (high / low) ** 0.3)  # room for the names
    ax.set_xlabel(label)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))


def _labels(ax: Axes, ends: Sequence[tuple[float, float, Method]]) -> None:
    """Names beside the lines' ends, pushed apart where lines end close together."""
    low, high = ax.get_ylim()
    least, last = (high - low) * 0.055, -np.inf
    for x, y, method in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + least)
        text = ax.text(x * 1.08, last, NAMES[method.name], color=TONES[method.name], size=9, va="center", zorder=6)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
