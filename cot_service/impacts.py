"""Moments at which a followed object changes its velocity abruptly: a bounce, a kick, a sudden stop."""

import numpy as np

MIN_IMPULSE = 2.2
RELATIVE = 0.22


def fill(centre: np.ndarray) -> np.ndarray:
    """(T, 2) with gaps interpolated and both ends held."""
    times = np.arange(len(centre))
    known = np.isfinite(centre[:, 0])
    return np.stack([np.interp(times, times[known], centre[known, axis]) for axis in (0, 1)], axis=1)


def impulses(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times (frames, fractional) and sizes (pixels per frame) of the velocity jumps of a path (T, 2).

    A jump J at frame t + f appears in the second difference as (1 - f) J at t and f J at t + 1, on top of smooth
    acceleration such as gravity; the running median removes that, the centre of mass of the pair gives f.
    """
    known = np.flatnonzero(np.isfinite(centre[:, 0]))
    if len(known) < 5:
        return np.zeros(0), np.zeros(0)
    first, last = known[0], known[-1] + 1
    path = fill(centre)[first:last]
    second = np.zeros_like(path)
    second[1:-1] = path[2:] - 2 * path[1:-1] + path[:-2]
    sharp = second - running_median(second, 7)
    sharp[[0, -1]] = 0
    pair = np.linalg.norm(sharp[:-1] + sharp[1:], axis=1)
    level = max(MIN_IMPULSE, RELATIVE * pair.max(initial=0))
    times, sizes = [], []
    for t in np.argsort(-pair):
        if pair[t] < level:
            break
        if any(abs(t - int(other)) < 3 for other in times):
            continue
        jump = (sharp[t] + sharp[t + 1]) / pair[t]
        before, after = max(0.0, float(sharp[t] @ jump)), max(0.0, float(sharp[t + 1] @ jump))
        times.append(float(t) + after / (before + after))
        sizes.append(float(pair[t]))
    order = np.argsort(times)
    return np.array(times)[order] + first, np.array(sizes)[order]


def running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Median over a centred window along the first axis; the window shrinks at the ends."""
    half = width // 2
    padded = np.pad(values, ((half, half), (0, 0)), constant_values=np.nan)
    windows = np.stack([padded[i : i + len(values)] for i in range(width)])
    return np.nanmedian(windows, axis=0)
