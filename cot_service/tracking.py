"""Following the objects that move before a still background."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

MIN_CONTRAST = 14.0
PEAK_SHARE = 0.25
MIN_AREA = 6
MAX_AREA = 0.25
MAX_BLOBS = 6
MAX_MISSED = 4
BACKGROUND_FRAMES = 15
RARE = 0.2
MAX_BUSY = 0.5
FREE_VARIATION = 0.15
MAX_VARIATION = 0.4


@dataclass(frozen=True)
class Track:
    """One object: centre (T, 2) as x, y in pixels, NaN where unseen; mass (T,) contrast times area; area (T,)."""

    centre: np.ndarray
    mass: np.ndarray
    area: np.ndarray

    @property
    def coverage(self) -> float:
        """Share of the frames in which it is seen."""
        return float(np.isfinite(self.centre[:, 0]).mean())

    @property
    def solidity(self) -> float:
        """How much it is one solid object that travels, 0 to 1: constant mass, a path longer than itself."""
        seen = self.mass > 0
        variation = float(self.mass[seen].std() / self.mass[seen].mean())
        travelled = float(np.ptp(self.centre[seen], axis=0).max() / np.sqrt(self.area[seen].mean()))
        steady = np.clip((MAX_VARIATION - variation) / (MAX_VARIATION - FREE_VARIATION), 0, 1)
        return float(steady * np.clip(travelled, 0, 1))


def contrast(frames: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(T, h, w) uint8 difference of the frames from the background, over the strongest colour channel."""
    out = np.empty(frames.shape[:3], np.uint8)
    for frame, target in zip(frames, out, strict=True):
        red, green, blue = cv2.split(cv2.absdiff(frame, background))
        cv2.max(cv2.max(red, green), blue, dst=target)
    return out


def background_of(frames: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 picture without the moving objects: the median over time.

    An object that dwells can hold a pixel about as long as the background does. Where both are common, the one
    that continues the undisturbed surroundings is taken.
    """
    picks = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), BACKGROUND_FRAMES)).round().astype(int))
    sample = frames[picks]
    background = median_frame(sample)
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in sample])
    low, high = luma.min(0), luma.max(0)
    busy = cv2.subtract(high, low) > 2 * MIN_CONTRAST
    bright = luma > (low // 2 + high // 2)
    usual = bright.mean(0)
    doubtful = busy & (usual > RARE) & (usual < 1 - RARE)
    if not doubtful.any() or busy.mean() > MAX_BUSY:
        return background
    surroundings = cv2.inpaint(
        cv2.cvtColor(background, cv2.COLOR_RGB2GRAY), busy.astype(np.uint8), 3, cv2.INPAINT_TELEA
    )
    rows, columns = np.nonzero(doubtful)
    values, is_bright = luma[:, rows, columns].astype(np.float32), bright[:, rows, columns]
    lit = (values * is_bright).sum(0) / is_bright.sum(0)
    dark = (values * ~is_bright).sum(0) / (~is_bright).sum(0)
    wanted = surroundings[rows, columns]
    keep = (is_bright == (np.abs(lit - wanted) < np.abs(dark - wanted)))[..., None]
    background[rows, columns] = ((sample[:, rows, columns] * keep).sum(0) / keep.sum(0)).astype(np.uint8)
    return background


def median_frame(frames: np.ndarray) -> np.ndarray:
    """Median of (T, ...) uint8 over time, the upper one for even T; sorts by whole-frame exchanges, which is fast."""
    ranked = frames.copy()
    for turn in range(len(ranked)):
        even, odd = ranked[turn % 2 : len(ranked) - 1 : 2], ranked[turn % 2 + 1 :: 2]
        lower = np.minimum(even, odd)
        np.maximum(even, odd, out=odd)
        even[:] = lower
    return ranked[len(ranked) // 2]


def threshold(difference: np.ndarray) -> float:
    """Contrast above which a pixel belongs to an object: above noise and a share of the strongest contrast."""
    sample = difference[:: max(1, len(difference) // 8)]
    noise = float(np.median(sample)) * 1.5 + 1.0
    peak = float(np.quantile(sample, 0.999))
    return max(MIN_CONTRAST, 4 * noise, PEAK_SHARE * peak)


def blobs(difference: np.ndarray, level: float) -> np.ndarray:
    """(n, 4) rows of x, y, mass, area of the connected foreground parts of one frame, heaviest first."""
    mask = (difference > level).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return np.zeros((0, 4))
    rows = []
    for label in range(1, count):
        left, top, width, height, area = stats[label]
        if area < MIN_AREA:
            continue
        patch = labels[top : top + height, left : left + width] == label
        weight = np.where(patch, difference[top : top + height, left : left + width], 0).astype(np.float64)
        mass = weight.sum()
        x = (weight.sum(0) @ np.arange(width)) / mass + left
        y = (weight.sum(1) @ np.arange(height)) / mass + top
        rows.append((x, y, mass, area))
    found = np.array(rows).reshape(-1, 4)
    return found[np.argsort(-found[:, 2])][:MAX_BLOBS]


def follow(per_frame: list[np.ndarray], reach: float) -> list[Track]:
    """Link blobs over time by place and mass; `reach` is the longest jump between frames in pixels."""
    tracks: list[dict[int, np.ndarray]] = []
    for time, found in enumerate(per_frame):
        live = [track for track in tracks if time - max(track) <= MAX_MISSED]
        taken: set[int] = set()
        if live and len(found):
            cost = np.stack([_cost(track, found, time, reach) for track in live])
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if cost[row, column] < 2.0:
                    live[row][time] = found[column]
                    taken.add(int(column))
        tracks += [{time: blob} for column, blob in enumerate(found) if column not in taken]
    return [_as_track(track, len(per_frame)) for track in tracks]


def _cost(track: dict[int, np.ndarray], found: np.ndarray, time: int, reach: float) -> np.ndarray:
    last = max(track)
    blob = track[last]
    distance = np.hypot(found[:, 0] - blob[0], found[:, 1] - blob[1]) / (reach * (time - last))
    usual = np.median([b[2] for b in track.values()])
    weight = np.abs(np.log(found[:, 2] / usual))
    return distance + 0.7 * weight


def _as_track(track: dict[int, np.ndarray], length: int) -> Track:
    centre, mass, area = np.full((length, 2), np.nan), np.zeros(length), np.zeros(length)
    for time, blob in track.items():
        centre[time], mass[time], area[time] = blob[:2], blob[2], blob[3]
    return Track(centre, mass, area)


def track_objects(frames: np.ndarray) -> tuple[list[Track], float]:
    """Tracks of the moving objects in (T, h, w, 3) frames, and how well the picture suits tracking, 0 to 1.

    Suits: the background is still, and few compact things move before it.
    """
    difference = contrast(frames, background_of(frames))
    level = threshold(difference)
    mask = difference > level
    share = mask.mean((1, 2))
    per_frame = [blobs(image, level) for image in difference]
    seen = np.array([len(found) > 0 for found in per_frame])
    if seen.sum() < 3 or np.median(share[seen]) > MAX_AREA:
        return [], 0.0
    tracks = follow(per_frame, reach=0.35 * max(frames.shape[1:3]))
    compact = float(np.clip(1.5 - np.median([len(found) for found in per_frame]) / 4, 0, 1))
    main = np.array([found[:2, 2].sum() / found[:, 2].sum() for found in per_frame if len(found)])
    return tracks, float(compact * np.clip(2 * main.mean() - 1, 0, 1))
