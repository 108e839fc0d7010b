"""Any video as the embedded encoders understand it: its impacts and positions, drawn as a bouncing object.

The small encoders learned from drawn scenes alone, so the raw pixels of a camera tell them nothing. What motion
analysis found in a real video is therefore drawn in the world they know.
"""

import re
from collections.abc import Sequence

import numpy as np

from scenes import picture
from scenes.materials import MATERIALS
from scenes.world import FPS, SECONDS, Scene


def draw(events: Sequence[float], positions: Sequence[float], seconds: float, caption: str | None) -> np.ndarray:
    """Frames (T, 96, 96, 3) uint8 at `scenes.world.FPS` of an object that hits the floor at `events` (s).

    positions: horizontal place in [-1, 1], evenly spread over `seconds` (at most `scenes.world.SECONDS`); the object
    moves in a straight line through them. caption: picks the shape when it names a material.
    """
    count = max(1, round(min(seconds, SECONDS) * FPS))
    start, slope = 0.0, 0.0
    if len(positions) > 1:
        slope, start = np.polyfit(np.linspace(0, seconds, len(positions)), positions, 1)
    elif positions:
        start = positions[0]
    scene = Scene(
        seed=0,
        material_index=material_of(caption),
        caption=caption or "",
        events=tuple(events),
        loudness=(1.0,) * len(events),
        start=float(np.clip(start, -0.9, 0.9)),
        end=float(np.clip(start + slope * SECONDS, -0.9, 0.9)),
        size=0.11,
        color=(0.8, 0.7, 0.6),
        distractor=None,
    )
    return picture.render(scene)[:count]


def describe(caption: str | None) -> str | None:
    """A caption that names a material, in the words of the world: "Metal hits." becomes "A metal tin bouncing."

    The text encoder learned pairs of words and does not know what half of one means. Other captions stay as they are.
    """
    found = _named(caption)
    return caption if found is None else f"A {' '.join(found[1])} bouncing."


def material_of(caption: str | None) -> int:
    """Index of the material a caption names, else 0."""
    found = _named(caption)
    return 0 if found is None else found[0]


def _named(caption: str | None) -> tuple[int, tuple[str, str]] | None:
    """Material and word pair that share most words with a caption; the first of several."""
    said = set(re.findall("[a-z]+", (caption or "").lower()))
    pairs = [(k, pair, len(said & {*pair})) for k, m in enumerate(MATERIALS) for pair in m.words]
    index, pair, shared = max(pairs, key=lambda entry: entry[2])
    return (index, pair) if shared else None
