"""A tiny renderer of its own: a ball that bounces at known times, so that the analysis is not tested on one world."""

from collections.abc import Callable

import numpy as np
import pytest

from media.clip import Clip

Drawer = Callable[..., Clip]


def heights(times: np.ndarray, events: tuple[float, ...], gravity: float, around: float) -> np.ndarray:
    """Ballistic height under constant gravity, zero at the events; the first and last arc last `around` s."""
    knots = np.array([events[0] - around, *events, events[-1] + around])
    arc = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(knots) - 2)
    since, left = times - knots[arc], knots[arc + 1] - times
    return gravity * since * left


@pytest.fixture(scope="session")
def bouncing() -> Drawer:
    """draw(events, start, end, ...) -> Clip of a disc on a grey floor."""

    def draw(
        events: tuple[float, ...],
        start: float = -0.5,
        end: float = 0.5,
        fps: float = 16.0,
        seconds: float = 2.0,
        size: tuple[int, int] = (96, 96),
        noise: float = 2.0,
        radius: float = 0.1,
        seed: int = 0,
        gravity: float = 3.5,
        around: float = 0.9,
    ) -> Clip:
        times = np.arange(round(seconds * fps)) / fps
        high, wide = size
        rows, columns = (np.mgrid[:high, :wide] + 0.5) / high
        frames = np.empty((len(times), high, wide, 3), np.float64)
        for index, time in enumerate(times):
            x = (0.5 + 0.42 * (start + (end - start) * time / seconds)) * wide / high
            y = 0.88 - radius - 0.7 * heights(np.array(time), events, gravity, around)
            cover = np.clip(0.5 - (np.hypot(columns - x, rows - y) - radius) * high, 0, 1)[..., None]
            frames[index] = np.where(rows[..., None] > 0.88, 60, 30) * (1 - cover) + np.array([220, 120, 40]) * cover
        frames += np.random.default_rng(seed).normal(0, noise, frames.shape)
        return Clip("ball.mp4", np.clip(frames, 0, 255).astype(np.uint8), fps)

    return draw
