"""The hacking monitor in the report: every trained score beside what watches it, and the alarms in words."""

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from evaluation import present
from evaluation.charts import Frame, axes, dots, span, svg, ticks
from evaluation.names import joined, titled
from evaluation.run_data import Point, RunData

SIZE = {"width": 460.0, "height": 230.0, "right": 48.0}


def monitor(run: RunData) -> dict[str, Any] | None:
    """Panels and a verdict; None for a run that was not monitored."""
    unwatched = run.monitor.get("unwatched") or {}
    panels = [_panel(run, name, unwatched.get(name)) for name in run.monitored]
    if not unwatched and not any(panel["chart"] for panel in panels):
        return None
    return {"panels": panels, "verdict": verdict(run)}


def verdict(run: RunData) -> str:
    """What the monitor has to say about the run as a whole."""
    parted = [name for name in run.monitored if run.parted(name)]
    if parted:
        return f"Alarm for {joined(parted)}: what the training optimised is not what it was meant to mean there."
    silent = [name for name in run.monitored if name in (run.monitor.get("unwatched") or {})]
    if len(silent) == len(run.monitored):
        return "Nothing here could raise an alarm."
    rest = f" {titled(joined(silent))} could raise none." if silent else ""
    return f"No alarm: at no evaluation had a trained score risen while what watches it fell.{rest}"


def aligned(trained: Sequence[Point], watched: Sequence[Point], height: float) -> list[Point]:
    """Watcher points moved and scaled so that they start where the trained score does: `height` is drawn as 1.

    The start is the first evaluation with both, so the two lines differ only by what changed since.
    """
    scores = {p.version: p.mean for p in trained}
    both = [p for p in watched if p.version in scores] or list(watched)
    low = scores.get(both[0].version, trained[0].mean if trained else 0.0)
    return [
        Point(p.version, low + (p.mean - both[0].mean) / height, None if p.stderr is None else p.stderr / height)
        for p in watched
    ]


def label(run: RunData, name: str) -> str:
    """What watches a dimension, in words."""
    known = name in present.WATCHERS or name in run.judges or run.watched(name)
    return present.watcher(name, run.judges.get(name)).label if known else "nothing built in"


def _panel(run: RunData, name: str, unwatched: str | None) -> dict[str, Any]:
    watched, watcher = run.watched(name), present.watcher(name, run.judges.get(name))
    raised = [alarm for alarm in run.alarms if alarm["dimension"] == name]
    chart = monitor_chart(run, name) if watched else None
    return {
        "name": name,
        "tone": run.tone(name),
        "label": label(run, name),
        "unit": watcher.unit,
        "ends": (watched[0], watched[-1]) if watched else None,
        "chart": chart,
        "unwatched": unwatched,
        "silent": _silent(run, name),
        "alarms": _told(run, raised),
    }


def _silent(run: RunData, name: str) -> str:
    """Where a judge gave no score at the last evaluation, in words."""
    blocks = [line["monitor"] for line in run.metrics if line.get("monitor")] + [run.monitor.get("after")]
    last = next((block for block in reversed(blocks) if block), {}).get(name) or {}
    if not last.get("silent"):
        return ""
    return f"At the last evaluation it gave no score for {last['silent']} of the clips: {last['reason']}."


def _told(run: RunData, raised: Sequence[dict[str, Any]]) -> list[str]:
    """The first alarm of a dimension, and whether it still holds at the last evaluation."""
    if not raised:
        return []
    last = max((p.version for name in run.monitored for p in run.watched(name)), default=raised[-1]["iteration"])
    if raised[-1]["iteration"] < last:
        return [present.alarm_sentence(raised[-1]), f"It no longer held at update {last}."]
    again = (
        "" if len(raised) == 1 else f"First raised at update {raised[0]['iteration']}; it holds at the last evaluation."
    )
    return [present.alarm_sentence(raised[-1]), *([again] if again else [])]


def monitor_chart(run: RunData, name: str) -> Markup:
    """Trained held-out score (left axis) and its watcher (right axis) from a common start; alarms in red."""
    trained, watched = run.heldout(name), run.watched(name)
    height, tone = present.watcher(name, run.judges.get(name)).height, run.tone(name)
    shown = aligned(trained, watched, height)
    reach = [p.mean + side * (p.stderr or 0.0) for p in (*trained, *shown) for side in (-1, 1)]
    frame = Frame(x_range=(0, max(run.iterations, 1)), y_range=span(reach), **SIZE)
    parts = [axes(frame, digits=2), _right_axis(frame, shown[0].mean - watched[0].mean / height, height)]
    parts += _marks(frame, run.parted(name), [a["iteration"] for a in run.alarms if a["dimension"] == name])
    parts.append(_dots(frame, trained, f"line {tone}", f"held-dot {tone}"))
    parts.append(_dots(frame, shown, "line ink watch", "watch-dot"))
    data = {
        "training": [(p.version, p.mean) for p in trained],
        "heldout": [(p.version, p.mean, p.stderr) for p in watched],
        "labels": ["trained", "watched by"],
    }
    return svg(frame, f"{name}: trained score and what watches it", parts, {"data-chart": json.dumps(data)})


def _marks(frame: Frame, parted: tuple[int, int] | None, raised: Sequence[int]) -> list[str]:
    """The stretch over which the two parted, and a line at every alarm."""
    if parted is None:
        return []
    tall, (x0, x1) = frame.height - frame.top - frame.bottom, (frame.x(at) for at in parted)
    area = f'<rect class="parted" x="{x0:.1f}" y="{frame.top}" width="{x1 - x0:.1f}" height="{tall:.1f}"/>'
    return [area, *(f'<path class="alarm" d="M{frame.x(at):.1f},{frame.top}v{tall:.1f}"/>' for at in raised)]


def _dots(frame: Frame, points: Sequence[Point], line: str, dot: str) -> str:
    parts = [f'<path class="{line}" d="{frame.line([(p.version, p.mean) for p in points])}"/>'] if points else []
    return "".join([*parts, *dots(frame, points, dot)])


def _right_axis(frame: Frame, offset: float, height: float) -> str:
    """Numbers of the watcher at the right: a value w is drawn at offset + w / height of the left axis."""
    low, high = ((y - offset) * height for y in frame.y_range)
    x = frame.width - frame.right
    return "".join(
        f'<path class="right-tick" d="M{x:.1f},{frame.y(offset + value / height):.1f}h4"/>'
        f'<text class="tick right" x="{x + 8:.1f}" y="{frame.y(offset + value / height) + 4:.1f}">{value:.2f}</text>'
        for value in ticks(low, high)
    ).replace(">-", ">−")
