"""What goes into a scorer and what comes out of it."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Origin = Literal["truth", "picture"]


@dataclass(frozen=True)
class Reference:
    """What is known about one clip, against which its sound is judged.

    text: the semantic part of the plan. events: times of visible impacts in seconds.
    positions: horizontal place of the sounding object per frame, -1 (left) to 1 (right), at `position_fps` (Hz).
    origin: per field, "truth" when a manifest said so, "picture" when it was measured from the frames.
    plan: the whole plan as one text. uri: the video file; start: where in it the clip begins, in s.
    """

    clip_id: str
    text: str
    seconds: float
    events: tuple[float, ...]
    positions: tuple[float, ...]
    position_fps: float
    origin: dict[str, Origin] = field(default_factory=dict)
    plan: str = ""
    uri: str = ""
    start: float = 0.0

    def position_at(self, seconds: float) -> float:
        """Position on screen at a time, linearly interpolated."""
        if not self.positions:
            return 0.0
        return float(np.interp(seconds * self.position_fps, np.arange(len(self.positions)), self.positions))


@dataclass(frozen=True)
class Scores:
    """Scores of G prompts with N samples each in one dimension.

    values: (G, N) float64 within the scorer's bounds; NaN marks a missing score and is never used as a number.
    missing: reason of every NaN, keyed by (g, n), except those of `gated` prompts.
    gated: prompts that this dimension says nothing about, with the reason (a mono reference has no places to compare
    with). Their rows are NaN and nobody's failure: the dimension is left out for that prompt.
    measured: for each sample, what was measured (times in s, delays in ms, levels in dB), or None if not asked for.
    """

    values: np.ndarray
    missing: dict[tuple[int, int], str] = field(default_factory=dict)
    measured: list[list[dict[str, Any]]] | None = None
    gated: dict[int, str] = field(default_factory=dict)


class Scorer(Protocol):
    """One reward. Stateless between calls, batched, never writes files.

    A dataclass whose fields are the options a recipe may set. What it may have besides:
    bounds: class variable, lowest and highest score, (0, 1) without it.
    environment: class variable, the `rewards_service.environments.Environment` whose packages it needs; its file then
    imports them inside methods.
    device: field, where its model runs; set to "cuda" for replicas with a share of a GPU.
    load(): reads weights, once per replica, so that what is missing shows at the start. A scorer with it is asked
    through its replicas, and not built in other processes.
    """

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) float32 waveforms against G references."""
        ...
