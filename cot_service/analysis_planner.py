"""A planner without a language model: the plan of what the picture's motion shows."""

from bisect import bisect

import numpy as np

from cot_service.analysis import VideoAnalysis, analyse
from cot_service.plan import Plan
from media.clip import Clip

NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
MAX_TIMES = 8
PLACES = ("far left", "left", "centre", "right", "far right")
PLACE_EDGES = (-0.6, -0.2, 0.2, 0.6)
MOVES = 0.25
UNKNOWN = "An object of unknown material."
CLEAN = "Clean clear recording at a moderate level."


class AnalysisPlanner:
    """Writes the four texts from `analyse`, in a small stable vocabulary."""

    name = "analysis"
    version = "1"

    def plan(self, clip: Clip, caption: str | None) -> Plan:
        """Analyse the clip and describe it."""
        return plan_from(analyse(clip), caption)


def plan_from(analysis: VideoAnalysis, caption: str | None, aesthetic: str = CLEAN) -> Plan:
    """The plan of an analysis that is already there; `aesthetic` names the wanted recording quality."""
    return Plan(
        semantic=semantic(caption),
        temporal=temporal(analysis.events),
        aesthetic=aesthetic,
        spatial=spatial(analysis.positions),
        source=AnalysisPlanner.name,
    )


def semantic(caption: str | None) -> str:
    """The caption as a sentence, or that the material is unknown."""
    text = " ".join((caption or "").split())
    if not text:
        return UNKNOWN
    return text if text[-1] in ".!?" else text + "."


def temporal(events: tuple[float, ...]) -> str:
    """Number and times of the impacts, to a tenth of a second: "Two impacts at 0.4 s and 1.1 s."."""
    if not events:
        return "No impacts."
    count = NUMBERS[len(events)] if len(events) < len(NUMBERS) else "Many"
    noun = "impact" if len(events) == 1 else "impacts"
    times = [f"{time:.1f} s" for time in events[:MAX_TIMES]]
    if len(events) > MAX_TIMES:
        return f"{count} {noun} at {', '.join(times)} and later."
    listed = times[0] if len(times) == 1 else f"{', '.join(times[:-1])} and {times[-1]}"
    return f"{count} {noun} at {listed}."


def spatial(positions: tuple[float, ...]) -> str:
    """Where it starts and whether it moves: "It starts far left and moves to the right."."""
    if not positions:
        return "It stays in the centre."
    edge = max(1, len(positions) // 8)
    start, end = float(np.median(positions[:edge])), float(np.median(positions[-edge:]))
    here, there = place(start), place(end)
    if abs(end - start) < MOVES or here == there:
        return f"It stays in the {here}."
    return f"It starts {here} and moves to the {there}."


def place(position: float) -> str:
    """The name of a horizontal position in [-1, 1]."""
    return PLACES[bisect(PLACE_EDGES, position)]
