"""Drawing a scene: one coloured shape that bounces on a floor, sometimes a dim drifting shape behind it."""

import numpy as np

from scenes.world import FPS, SECONDS, Scene

SIZE = 96
FLOOR = 0.88


def _distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance-like field, negative inside; picture units."""
    if shape == "disc":
        return np.hypot(dx, dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.88 * radius
    if shape == "triangle":
        return np.maximum(0.87 * np.abs(dx) - 0.5 * dy, dy) - 0.6 * radius
    return np.abs(np.hypot(dx, dy) - 0.75 * radius) - 0.3 * radius


def _paint(frames: np.ndarray, field: np.ndarray, color: np.ndarray) -> None:
    cover = np.clip(0.5 - field * SIZE, 0, 1)[..., None]
    frames += cover * (color - frames)


def render(scene: Scene, size: int = SIZE) -> np.ndarray:
    """Frames (T, size, size, 3) uint8 at `scenes.world.FPS`."""
    rng = np.random.default_rng([scene.seed, 1])
    times = np.arange(round(SECONDS * FPS)) / FPS
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    grid_x, grid_y = axis[None, None, :], axis[None, :, None]
    frames = np.full((len(times), size, size, 3), 0.12, np.float32)
    frames[:, int(FLOOR * size) :] = 0.22
    if scene.distractor is not None:
        x0, x1, y = scene.distractor
        x = (0.5 + 0.42 * (x0 + (x1 - x0) * times / SECONDS)).astype(np.float32)[:, None, None]
        _paint(frames, _distance("disc", grid_x - x, grid_y - np.float32(y), 0.05), np.full(3, 0.3, np.float32))
    x = (0.5 + 0.42 * scene.position(times)).astype(np.float32)[:, None, None]
    y = (FLOOR - scene.size - 0.7 * scene.height(times)).astype(np.float32)[:, None, None]
    _paint(
        frames, _distance(scene.material.shape, grid_x - x, grid_y - y, scene.size), np.asarray(scene.color, np.float32)
    )
    frames += rng.normal(0, 0.012, frames.shape[:3])[..., None].astype(np.float32)
    return np.clip(frames * 255, 0, 255).astype(np.uint8)
