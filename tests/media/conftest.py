"""Small videos with flashes and clicks at known times."""

from pathlib import Path

import numpy as np
import pytest

from media.video import write_clip

FPS, RATE = 16.0, 16_000
FLASHES = (8, 24)
CLICKS = (8_000, 24_000)


def flashes(count: int = 32, height: int = 48, width: int = 64) -> np.ndarray:
    """Black frames (T, H, W, 3), white where FLASHES says."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[list(FLASHES)] = 255
    return frames


def clicks(samples: int = 32_000) -> np.ndarray:
    """(2, S): a click left at the first time, right at the second."""
    sound = np.zeros((2, samples), np.float32)
    sound[0, CLICKS[0]] = sound[1, CLICKS[1]] = 0.8
    return sound


@pytest.fixture(scope="session")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 64 x 48, FLAC sound."""
    path = tmp_path_factory.mktemp("media") / "movie.mp4"
    write_clip(path, flashes(), FPS, clicks(), RATE, audio_codec="flac")
    return path


@pytest.fixture(scope="session")
def silent_movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same picture without sound."""
    path = tmp_path_factory.mktemp("media") / "silent.mp4"
    write_clip(path, flashes(), FPS)
    return path
