"""Which part of a clip Synchformer sees and hears: all of it, or what the released reward takes."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from foundation.synchformer import FPS
from foundation.synchformer_audio import RATE
from media.frames import read_frames
from media.squares import cropped_square


@dataclass(frozen=True)
class View:
    """short_side: pixels that the picture's shorter side is scaled to, before the middle is cut out; the model's own
    size when None. crop_s: how much of the clip is used from its start, None being all. skipped: frames at the start of
    that which no segment holds; frames: how many the segments hold then, None being all.
    """

    short_side: int | None = None
    crop_s: float | None = None
    skipped: int = 0
    frames: int | None = None

    def picture(self, path: str | Path, start: float, seconds: float, size: int) -> np.ndarray:
        """(T, size, size, 3) uint8 at 25 Hz of a stretch of a video. Raises MediaErrors."""
        prepare = partial(_middle, short_side=self.short_side or size, size=size)
        found = read_frames(path, FPS, start, min(seconds, self.crop_s or seconds), prepare)
        return found[self.skipped :][: self.frames]

    def sound(self, audio: Tensor) -> Tensor:
        """(B, S) at 16 kHz to what belongs to the same frames."""
        per_frame = RATE // FPS
        stop = None if self.frames is None else (self.skipped + self.frames) * per_frame
        return audio[:, self.skipped * per_frame : stop]


WHOLE = View()
"""As the condition's tokens are made, and as av-benchmark measures DeSync."""

RELEASED = View(short_side=256, crop_s=5.0, skipped=2, frames=120)
"""The 14 segments in the middle of the first 5 s: FunAudioLLM/ThinkSound, branch prismaudio, reward_synch.py."""


def _middle(frame: np.ndarray, short_side: int, size: int) -> np.ndarray:
    square = cropped_square(frame, short_side)
    edge = round((short_side - size) / 2)
    return square[edge : edge + size, edge : edge + size]
