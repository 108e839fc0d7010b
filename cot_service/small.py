"""The small grey or colour frames that the video analysis works on."""

import cv2
import numpy as np

SIDE = 96
CUT_DIFFERENCE = 24.0
CUT_RATIO = 4.0


def shrink(frames: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(T, H, W, 3) uint8 with the longer side at most `side` pixels."""
    height, width = frames.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1:
        return frames
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def grey(frames: np.ndarray) -> np.ndarray:
    """(T, h, w) uint8 luminance, slightly blurred against camera noise and block edges."""
    return np.stack([cv2.GaussianBlur(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (3, 3), 0) for f in frames])


def cuts(luma: np.ndarray) -> np.ndarray:
    """Indices t of frames that start a new shot: a change far above the changes around it, everywhere in the frame."""
    if len(luma) < 2:
        return np.zeros(0, int)
    tiny = np.stack([cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA) for frame in luma]).astype(np.int16)
    change = np.abs(np.diff(tiny, axis=0))
    level = change.mean((1, 2))
    around = np.pad(level, 2, mode="reflect" if len(level) > 2 else "edge")
    usual = np.median(np.stack([around[i : i + len(level)] for i in range(5)]), axis=0)
    everywhere = (change > CUT_DIFFERENCE / 2).mean((1, 2)) > 0.5
    return np.flatnonzero((level > CUT_DIFFERENCE) & (level > CUT_RATIO * (usual + 1)) & everywhere) + 1
