"""Motion of a whole picture, for videos without one cleanly visible object.

Visual impacts follow the idea of Davis and Agrawala, "Visual Rhythm and Beat" (CVPR workshops 2018): a hit is motion
in some direction that vanishes abruptly.
"""

from dataclasses import dataclass

import cv2
import numpy as np

DIRECTIONS = 8
# Right, down, left, up and between: most things are struck downwards, and lifting off is silent.
WEIGHTS = np.array([0.5, 1.0, 1.5, 1.0, 0.5, 0.2, 0.1, 0.2])
MIN_CHANGE = 6
MIN_SPEED = 0.12
CAMERA_SHARE = 0.3
EVERYWHERE = 0.75
COMMON = 0.9
CAP = 2.0
LEAST = 0.35
PROMINENCE = 0.8


@dataclass(frozen=True)
class Motion:
    """Per frame t: directed (T, 8) motion from t to t + 1 in picture widths per second times picture share;
    centre (T,) its horizontal centre in pixels, NaN where nothing moves; amount (T,) its total."""

    directed: np.ndarray
    centre: np.ndarray
    amount: np.ndarray


def measure_motion(luma: np.ndarray, fps: float, cuts: np.ndarray) -> Motion:
    """Dense optical flow of (T, h, w) uint8 frames, less the movement of the whole picture; nothing across a cut."""
    length, height, width = luma.shape
    directed, centre, amount = np.zeros((length, DIRECTIONS)), np.full(length, np.nan), np.zeros(length)
    if min(height, width) < 12:
        return Motion(directed, centre, amount)
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    level = noise_level(luma)
    scale = fps / (max(height, width) * height * width)
    columns = np.arange(width)
    forbidden = {int(cut) - 1 for cut in cuts}
    for t in range(length - 1):
        changed = cv2.absdiff(luma[t], luma[t + 1]) > level
        if t in forbidden or changed.sum() < 4:
            continue
        mask = cv2.dilate(changed.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        flow = engine.calc(luma[t], luma[t + 1], None)  # type: ignore[call-overload]
        camera = camera_motion(flow, mask)
        dx, dy = flow[..., 0] - camera[0], flow[..., 1] - camera[1]
        speed = np.hypot(dx, dy) * mask
        speed[speed < MIN_SPEED + CAMERA_SHARE * np.hypot(*camera)] = 0
        total = float(speed.sum())
        if total <= 0:
            continue
        turn = (np.arctan2(dy, dx) / (2 * np.pi) * DIRECTIONS) % DIRECTIONS
        low = np.floor(turn).astype(int) % DIRECTIONS
        part = turn - np.floor(turn)
        directed[t] = np.bincount(low.ravel(), (speed * (1 - part)).ravel(), DIRECTIONS)
        directed[t] += np.bincount(((low + 1) % DIRECTIONS).ravel(), (speed * part).ravel(), DIRECTIONS)
        directed[t] *= scale
        amount[t] = total * scale
        centre[t] = float(speed.sum(0) @ columns) / total
    return Motion(directed, centre, amount)


def camera_motion(flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(2,) median flow where things change, if that is all over the picture; else zero, for the camera stands."""
    height, width = mask.shape
    spread = cv2.resize(mask.astype(np.float32), (6, 6), interpolation=cv2.INTER_AREA) > 0.02
    if spread.mean() < EVERYWHERE or min(height, width) < 12:
        return np.zeros(2)
    return np.median(flow[mask], axis=0)


def noise_level(luma: np.ndarray) -> float:
    """Grey levels above which a change between neighbouring frames is more than camera noise."""
    step = max(1, (len(luma) - 1) // 8)
    samples = [np.median(cv2.absdiff(luma[t], luma[t + 1])) for t in range(0, len(luma) - 1, step)]
    return max(MIN_CHANGE, 6.0 * float(np.median(samples)) if samples else MIN_CHANGE)


def impact_envelope(motion: Motion, cuts: np.ndarray) -> np.ndarray:
    """(T,) how much directed motion vanishes at each frame, in [0, 1].

    Compressed, so that one violent change (a title that appears) does not hide the rest.
    """
    lost = np.zeros(len(motion.amount))
    lost[1:] = np.maximum(motion.directed[:-1] - motion.directed[1:], 0) @ WEIGHTS
    for cut in cuts:
        lost[max(0, cut - 1) : cut + 2] = 0
    if not lost.any():
        return lost
    top = CAP * float(np.quantile(lost[lost > 0], COMMON))
    return np.sqrt(np.minimum(lost / top, 1))


def pick(envelope: np.ndarray, fps: float, gap: float = 0.15, reach: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Times (frames, fractional) and heights of the envelope's peaks over a threshold that follows its level."""
    pair = np.zeros_like(envelope)
    pair[:-1] = envelope[:-1] + envelope[1:]
    half, distance = max(1, round(reach * fps)), max(1, round(gap * fps))
    times: list[float] = []
    heights: list[float] = []
    for t in range(len(pair)):
        near = pair[max(0, t - distance) : t + distance + 1]
        wide = pair[max(0, t - half) : t + half + 1]
        level = max(LEAST, float(wide.mean() + PROMINENCE * wide.std()))
        if pair[t] < level or pair[t] < near.max() or (times and t - times[-1] < distance):
            continue
        times.append(t + float(envelope[t + 1] / pair[t]))
        heights.append(float(pair[t]))
    return np.array(times), np.array(heights)
