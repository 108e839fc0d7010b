"""Squares against torchvision's numbers and against torch's own interpolation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F

from media.squares import cropped_square, padded_square

FIXTURES = Path(__file__).parent / "fixtures"


def drawn() -> np.ndarray:
    """The picture whose crop the fixture holds."""
    y, x = np.mgrid[:300, :420]
    channels = [128 + np.round(90 * np.sin(x / 17) * np.cos(y / 23)), (x + y) // 4, 255 - y // 3 + x // 5]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def planes(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None]


def test_crops_are_torchvisions():
    golden = load_file(FIXTURES / "frames.safetensors")
    up = cropped_square(golden["frame_up_in"][0].transpose(1, 2, 0))
    down = cropped_square(drawn())[::4, ::4]
    for name, crop in (("frame_up_out", up), ("frame_down_out_every_4th", down)):
        assert np.abs(crop.transpose(2, 0, 1).astype(int) - golden[name][0]).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(60, 80), (224, 224), (231, 400), (405, 230), (480, 853)])
def test_crops_equal_antialiased_bicubic_to_the_bit(height: int, width: int):
    frame = noise(height, width)
    short = min(height, width)
    size = int(224 * height / short), int(224 * width / short)
    scaled = F.interpolate(planes(frame), size, mode="bicubic", antialias=True)[0]
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = scaled[:, top : top + 224, left : left + 224].permute(1, 2, 0).numpy()
    assert np.abs(cropped_square(frame).astype(int) - expected).max() <= 1
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):  # elsewhere torch rounds in another way
        np.testing.assert_array_equal(cropped_square(frame), expected)


@pytest.mark.parametrize(("height", "width"), [(41, 60), (60, 41), (288, 288), (300, 421), (721, 405)])
def test_padded_squares_equal_plain_bilinear(height: int, width: int):
    frame = noise(height, width)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = F.pad(planes(frame), (left, side - width - left, top, side - height - top))
    expected = F.interpolate(square, (288, 288), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    assert np.abs(padded_square(frame).astype(int) - expected).max() <= 1


def test_the_odd_pixel_of_padding_is_below_and_right():
    white = np.full((285, 288, 3), 255, np.uint8)
    assert [int(row) for row in np.flatnonzero(~padded_square(white)[:, 0].any(axis=-1))] == [0, 286, 287]
    tall = np.full((288, 287, 3), 255, np.uint8)
    assert [int(column) for column in np.flatnonzero(~padded_square(tall)[0].any(axis=-1))] == [287]
