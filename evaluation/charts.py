"""The report's figures as SVG; colours and type come from the page's style sheet, so they follow light and dark."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from evaluation.run_data import Point

XY = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Frame:
    """Drawing area of a chart in user units, and the data ranges it shows."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 38.0
    right: float = 12.0
    top: float = 10.0
    bottom: float = 24.0

    def x(self, value: float) -> float:
        """Horizontal place of a data value."""
        low, high = self.x_range
        return self.left + (value - low) / max(high - low, 1e-9) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical place of a data value, kept inside the drawing area."""
        low, high = self.y_range
        share = min(1.0, max(0.0, (value - low) / max(high - low, 1e-9)))
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def line(self, points: XY) -> str:
        """SVG path through data points."""
        return "M" + "L".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points) if points else ""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high]: of these sets the one nearest to `count` in size."""
    scale = 10.0 ** np.floor(np.log10(max(high - low, 1e-9) / count))
    sets = []
    for step in (m * scale for m in (1, 2, 5, 10)):
        places = np.arange(np.ceil(low / step - 1e-6), np.floor(high / step + 1e-6) + 1)
        sets.append([round(float(v), 10) + 0.0 for v in places * step])
    return min(sets, key=lambda values: abs(len(values) - count))


def smooth(points: XY, width: float = 4.0) -> list[tuple[float, float]]:
    """Local straight lines, weighted by a Gaussian of `width` points; unlike a moving mean, true at both ends."""
    x, y = np.arange(len(points), dtype=float), np.array([v for _, v in points])
    result = []
    for i, (place, _) in enumerate(points):
        weight = np.exp(-0.5 * ((x - i) / width) ** 2)
        weight /= weight.sum()
        centre, level = weight @ x, weight @ y
        spread = weight @ (x - centre) ** 2
        slope = weight @ ((x - centre) * (y - level)) / spread if spread > 0 else 0.0
        result.append((place, float(level + slope * (i - centre))))
    return result


def span(values: Sequence[float], step: float = 0.1) -> tuple[float, float]:
    """Smallest range on multiples of `step` that holds all values."""
    if not values:
        return (0.0, 1.0)
    low, high = np.floor(min(values) / step - 1e-6) * step, np.ceil(max(values) / step + 1e-6) * step
    return (round(float(low), 6), round(float(max(high, low + step)), 6))


def dots(frame: Frame, points: Sequence[Point], kind: str) -> list[str]:
    """A dot of a class per held-out point, with its standard error behind it."""
    parts = []
    for p in points:
        x, y = frame.x(p.version), frame.y(p.mean)
        if p.stderr:
            top, bottom = frame.y(p.mean + p.stderr), frame.y(p.mean - p.stderr)
            parts.append(
                f'<path class="held-error" d="M{x - 3:.1f},{top:.1f}h6M{x:.1f},{top:.1f}V{bottom:.1f}m-3,0h6"/>'
            )
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>')
    return parts


def reward_chart(title: str, tone: str, training: XY, heldout: Sequence[Point], frame: Frame) -> Markup:
    """Training reward (faint, and smoothed) and held-out scores (points with standard errors) over updates."""
    parts = [axes(frame, digits=1)]
    if training:
        parts.append(f'<path class="raw {tone}" d="{frame.line(training)}"/>')
        parts.append(f'<path class="line {tone}" d="{frame.line(smooth(training))}"/>')
    parts += dots(frame, heldout, f"held-dot {tone}")
    data = {"training": smooth(training), "heldout": [(p.version, p.mean, p.stderr) for p in heldout]}
    return svg(frame, title, parts, {"data-chart": json.dumps(data)})


def small_chart(title: str, points: XY, frame: Frame, digits: int) -> Markup:
    """One quantity over updates."""
    parts = [axes(frame, digits, count=3), f'<path class="line ink" d="{frame.line(points)}"/>']
    return svg(frame, title, parts, {"data-chart": json.dumps({"training": list(points), "digits": digits})})


def slope_chart(
    title: str,
    names: Sequence[str],
    before: Sequence[float],
    after: Sequence[float | None],
    ends: tuple[str, str],
    frame: Frame,
    tones: Sequence[str] | None = None,
) -> Markup:
    """Every dimension's held-out score at both `ends`, as lines from left to right with labels.

    tones: class of each in the style sheet; its name without them.
    """
    left = dict(zip(names, _spread([frame.y(v) for v in before], 19), strict=True))
    known = [(n, v) for n, v in zip(names, after, strict=True) if v is not None]
    right = dict(zip([n for n, _ in known], _spread([frame.y(v) for _, v in known], 19), strict=True))
    x0, x1 = frame.x(0), frame.x(1)
    parts = [f'<path class="grid" d="M{x:.1f},{frame.top}V{frame.height - frame.bottom}"/>' for x in (x0, x1)]
    for name, tone, low, high in zip(names, tones or names, before, after, strict=True):
        y0 = frame.y(low)
        parts.append(f'<circle class="dot {escape(tone)}" cx="{x0:.1f}" cy="{y0:.1f}" r="4"/>')
        parts.append(
            f'<text class="value" x="{x0 - 12:.1f}" y="{left[name] + 4.5:.1f}" text-anchor="end">{low:.3f}</text>'
        )
        if high is None:
            continue
        y1 = frame.y(high)
        parts.append(f'<path class="slope {escape(tone)}" d="M{x0:.1f},{y0:.1f}L{x1:.1f},{y1:.1f}"/>')
        parts.append(f'<circle class="dot {escape(tone)}" cx="{x1:.1f}" cy="{y1:.1f}" r="4"/>')
        label = (
            f'<tspan class="value">{high:.3f}</tspan><tspan class="name {escape(tone)}" dx="8">{escape(name)}</tspan>'
        )
        parts.append(f'<text x="{x1 + 12:.1f}" y="{right[name] + 4.5:.1f}">{label}</text>')
    foot = frame.height - 4
    parts.append(f'<text class="tick" x="{x0:.1f}" y="{foot}" text-anchor="middle">{escape(ends[0])}</text>')
    parts.append(f'<text class="tick" x="{x1:.1f}" y="{foot}" text-anchor="middle">{escape(ends[1])}</text>')
    return svg(frame, title, parts, {})


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Places moved apart to at least `gap`, in order, around their own centre."""
    order = np.argsort(places, kind="stable")
    moved = np.array([places[i] for i in order], dtype=float)
    for _ in range(50):
        for i in range(len(moved) - 1):
            overlap = gap - (moved[i + 1] - moved[i])
            if overlap > 0:
                moved[i], moved[i + 1] = moved[i] - overlap / 2, moved[i + 1] + overlap / 2
    result = np.empty(len(moved))
    result[order] = moved
    return [float(v) for v in result]


def axes(frame: Frame, digits: int, count: int = 5) -> str:
    """Horizontal grid lines with their numbers, and the numbers of updates below."""
    lines = []
    for value in ticks(*frame.y_range, count):
        y = frame.y(value)
        lines.append(f'<path class="grid" d="M{frame.left},{y:.1f}H{frame.width - frame.right}"/>')
        lines.append(
            f'<text class="tick" x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>'
        )
    for value in ticks(*frame.x_range, 5):
        if value == int(value):
            x = f"{frame.x(value):.1f}"
            lines.append(f'<text class="tick" x="{x}" y="{frame.height - 6}" text-anchor="middle">{int(value)}</text>')
    return "".join(lines)


def svg(frame: Frame, title: str, parts: Sequence[str], data: dict[str, str]) -> Markup:
    """The parts in one drawing. data: further attributes, for the page's script to show values under the pointer."""
    geometry = {"x": frame.x_range, "left": frame.left, "right": frame.width - frame.right, "width": frame.width}
    data = {**data, "data-geometry": json.dumps(geometry)} if data else data
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in data.items())
    box = f"0 0 {frame.width:g} {frame.height:g}"
    head = f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(title)}"{attributes}>'
    return Markup(head + "".join(parts) + "</svg>")
