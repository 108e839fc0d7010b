"""The decoded form of a video that every other room works on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clip:
    """A decoded stretch of video.

    frames: (T, H, W, 3) uint8 RGB at a constant `fps` (Hz).
    waveform: (2, S) float32 in [-1, 1] at `sample_rate` (Hz), or None when the file has no sound or none was asked for.
    """

    path: str
    frames: np.ndarray
    fps: float
    waveform: np.ndarray | None = None
    sample_rate: int | None = None

    @property
    def seconds(self) -> float:
        """Length of the picture in seconds."""
        return len(self.frames) / self.fps
