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
    """

    clip_id: str
    text: str
    seconds: float
    events: tuple[float, ...]
    positions: tuple[float, ...]
    position_fps: float
    origin: dict[str, Origin] = field(default_factory=dict)

    def position_at(self, seconds: float) -> float:
        """Position on screen at a time, linearly interpolated."""
        if not self.positions:
            return 0.0
        return float(np.interp(seconds * self.position_fps, np.arange(len(self.positions)), self.positions))


@dataclass(frozen=True)
class Scores:
    """Scores of G prompts with N samples each in one dimension.

    values: (G, N) float64 in [0, 1]; NaN marks a missing score and is never used as a number.
    missing: reason of every NaN, keyed by (g, n).
    measured: for each sample, what was measured (times in s, delays in ms, levels in dB), or None if not asked for.
    """

    values: np.ndarray
    missing: dict[tuple[int, int], str] = field(default_factory=dict)
    measured: list[list[dict[str, Any]]] | None = None


class Scorer(Protocol):
    """One reward dimension. Stateless between calls; batched; never writes files."""

    @property
    def name(self) -> str:
        """The dimension."""
        ...

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) float32 waveforms against G references."""
        ...
