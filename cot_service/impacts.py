"""Moments at which a followed object changes its velocity abruptly: a bounce, a kick, a sudden stop."""

import numpy as np

MIN_IMPULSE = 2.2
RELATIVE = 0.22
SPACING = 3
MIN_PULL = 0.3
PULLED = 0.25
ALONG_PULL = 0.4
REST_SHARE = 0.06
REST_FRAMES = 5


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
    path = fill(centre)[known[0] : known[-1] + 1]
    second = np.zeros_like(path)
    second[1:-1] = path[2:] - 2 * path[1:-1] + path[:-2]
    sharp = second - running_median(second, 7)
    sharp[[0, -1]] = 0
    jumps = sharp[:-1] + sharp[1:]
    sizes = _discounted(jumps, second[1:-1])
    chosen = _strongest(sizes)
    if len(chosen) > 1 and comes_to_rest(path, chosen[-1], jumps[chosen[-1]]):
        chosen = chosen[:-1]
    times = [t + _share_after(sharp[t], sharp[t + 1]) for t in chosen]
    return np.array(times, float) + known[0], sizes[chosen]


def comes_to_rest(path: np.ndarray, t: int, jump: np.ndarray) -> bool:
    """Whether no rebound is seen from the jump after frame t; settling after bounces is hardly heard."""
    size = float(np.linalg.norm(jump))
    after = path[t + 1 : t + 2 + REST_FRAMES]
    moved = np.abs((after - after[0]) @ (jump / size)).max()
    return bool(moved < max(1.0, REST_SHARE * size))


def running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Median over a centred window along the first axis of (T, C); the window shrinks at the ends."""
    half = width // 2
    padded = np.pad(values, ((half, half), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)
    return np.nanmedian(windows, axis=-1)


def _discounted(jumps: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
    """Sizes of the jumps. Those along the usual pull (gravity) count less: they may be the top of a short arc."""
    sizes = np.linalg.norm(jumps, axis=1)
    moving = np.linalg.norm(acceleration, axis=1) > MIN_PULL
    pull = np.median(acceleration[moving], axis=0) if moving.mean() > PULLED else np.zeros(2)
    strength = float(np.linalg.norm(pull))
    if strength < MIN_PULL:
        return sizes
    along = jumps @ pull > 0.5 * strength * sizes
    return np.where(along, ALONG_PULL * sizes, sizes)


def _strongest(sizes: np.ndarray) -> np.ndarray:
    """Indices, in order of time, of the largest jumps that are not neighbours of a larger one."""
    level = max(MIN_IMPULSE, RELATIVE * float(sizes.max(initial=0)))
    chosen: list[int] = []
    for t in np.argsort(-sizes, kind="stable"):
        if sizes[t] < level:
            break
        if all(abs(int(t) - other) >= SPACING for other in chosen):
            chosen.append(int(t))
    return np.array(sorted(chosen), int)


def _share_after(here: np.ndarray, there: np.ndarray) -> float:
    """How far the jump lies between frame t and t + 1, from its parts in both second differences."""
    jump = here + there
    before, after = max(0.0, float(here @ jump)), max(0.0, float(there @ jump))
    return after / (before + after) if before + after > 0 else 0.5
