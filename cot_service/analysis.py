"""What the picture alone tells about its sound: when something hits, how hard, and where it is."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from cot_service.impacts import fill, impulses
from cot_service.motion import impact_envelope, measure_motion, pick
from cot_service.small import cuts, grey, shrink
from cot_service.tracking import Track, track_objects
from media.clip import Clip

RIM = 0.84
MAX_FPS = 32.0
MIN_COVERAGE = 0.5
TRUST = 0.5
SMOOTHING = 0.25


@dataclass(frozen=True)
class VideoAnalysis:
    """Visible events of one clip.

    events: times in s. strengths: one per event, 1 for the hardest. positions: horizontal place of what sounds, per
    frame at `fps` (Hz), -1 (its rim touches the left edge) to 1. confidence: 0 (nothing moves) to 1. method: "track"
    (one object followed), "flow" (motion of the whole picture) or "still".
    """

    events: tuple[float, ...]
    strengths: tuple[float, ...]
    positions: tuple[float, ...]
    fps: float
    confidence: float
    method: str


def analyse(clip: Clip) -> VideoAnalysis:
    """Find impacts and positions in any clip; about 10 ms for 32 frames of 96 x 96."""
    stride = max(1, int(np.ceil(clip.fps / MAX_FPS - 1e-6)))
    frames = shrink(clip.frames[::stride])
    fps = clip.fps / stride
    if len(frames) < 3:
        return still(len(frames), fps)
    luma = grey(frames)
    shots = cuts(luma)
    if not len(shots):
        tracks, trust = track_objects(frames)
        best = sounding(tracks)
        if best is not None and trust * best.solidity >= TRUST:
            return from_track(best, fps, frames.shape[2], trust * best.solidity)
    return from_flow(luma, fps, shots)


def still(length: int, fps: float) -> VideoAnalysis:
    """Nothing moves: no event, everything in the centre."""
    return VideoAnalysis((), (), (0.0,) * length, fps, 0.0, "still")


def sounding(tracks: list[Track]) -> Track | None:
    """Of the objects seen most of the time, the one whose motion changes most abruptly, weighted by its size."""
    seen = [track for track in tracks if track.coverage >= MIN_COVERAGE]

    def drama(track: Track) -> float:
        return float(impulses(track.centre)[1].sum() + 0.1) * float(np.sqrt(track.mass[track.mass > 0].mean()))

    return max(seen, key=drama, default=None)


def from_track(track: Track, fps: float, width: int, trust: float) -> VideoAnalysis:
    """Events and positions of one followed object."""
    times, sizes = impulses(track.centre)
    x = gaussian_filter1d(fill(track.centre)[:, 0], 0.5)
    return _result(times, sizes, x, width, fps, trust * track.coverage, "track")


def from_flow(luma: np.ndarray, fps: float, shots: np.ndarray) -> VideoAnalysis:
    """Events and positions from the motion of the whole picture."""
    motion = measure_motion(luma, fps, shots)
    if motion.amount.max() <= 0:
        return still(len(luma), fps)
    times, sizes = pick(impact_envelope(motion, shots), fps)
    weight = np.where(np.isfinite(motion.centre), motion.amount, 0) + 1e-9
    place = np.where(np.isfinite(motion.centre), motion.centre, (luma.shape[2] - 1) / 2)
    sigma = SMOOTHING * fps
    x = gaussian_filter1d(place * weight, sigma) / gaussian_filter1d(weight, sigma)
    moving = float((motion.amount > 0.1 * motion.amount.max()).mean())
    return _result(times, sizes, x, luma.shape[2], fps, 0.5 * moving, "flow")


def _result(
    times: np.ndarray, sizes: np.ndarray, x: np.ndarray, width: int, fps: float, confidence: float, method: str
) -> VideoAnalysis:
    places = np.clip((2 * (x + 0.5) / width - 1) / RIM, -1, 1)
    top = sizes.max(initial=1e-9)
    return VideoAnalysis(
        events=tuple(float(t) / fps for t in times),
        strengths=tuple(float(s / top) for s in sizes),
        positions=tuple(float(p) for p in places),
        fps=fps,
        confidence=float(np.clip(confidence, 0, 1)),
        method=method,
    )
