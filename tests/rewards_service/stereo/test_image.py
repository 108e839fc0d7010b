"""What a stereo image holds: numbers that follow from how a sound was made."""

import numpy as np
import pytest
import torch

from rewards_service.stereo.image import BANDS_HZ, StereoImage, banded, identity, measure, stack
from tests.rewards_service.released.stereo_sounds import RATE, mono, panned

BANDS = len(BANDS_HZ) - 1


def noise(seed: int = 0, seconds: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def image(*sounds: np.ndarray) -> StereoImage:
    return measure(torch.from_numpy(np.stack(sounds)), 0.25, 0.125)


def test_windows_cover_the_whole_sound() -> None:
    """2 s in windows of 0.25 s every 0.125 s are 15; 30 ms more need one more, which is filled up."""
    assert len(image(panned(noise(), 0, 0)).times) == 15
    longer = image(panned(noise(seconds=2.03), 0, 0))
    assert len(longer.times) == 16
    np.testing.assert_allclose(longer.times, 0.125 + 0.125 * np.arange(16), atol=1e-6)
    assert image(panned(noise(seconds=0.1), 0, 0)).delay_ms.shape == (1, 1)


def test_delay_and_level_are_those_that_were_made() -> None:
    found = image(panned(noise(), 0.3, 6.0), panned(noise(), -0.45, -9.0))
    for row, (later, louder) in enumerate([(0.3, 6.0), (-0.45, -9.0)]):
        np.testing.assert_allclose(found.delay_ms[row], later, atol=0.01)
        np.testing.assert_allclose(found.level_db[row], louder, atol=0.5)
        np.testing.assert_allclose(found.broad_level_db[row], louder, atol=0.3)
    assert (found.confidence > 4).all()


def test_the_side_of_mono_unrelated_and_opposed_channels() -> None:
    one, other = noise(0), noise(1)
    found = image(np.stack([one, one]), np.stack([one, other]), np.stack([one, -one]), np.stack([one, 0 * one]))
    for row, side in enumerate([0.0, 0.5, 1.0, 0.5]):
        assert found.side[row].mean().item() == pytest.approx(side, abs=0.02)
    assert found.confidence[1].mean() < 3


def test_silence_and_mono_have_neither_delay_nor_level() -> None:
    silent, flat = 0 * panned(noise(), 0, 0), mono(panned(noise(), 0.3, 6.0))
    found = image(silent, flat)
    assert not found.delay_ms[0].any()
    assert not found.confidence[0].any()
    assert not found.amplitude[0].any()
    np.testing.assert_allclose(found.delay_ms, 0, atol=1e-4)
    np.testing.assert_allclose(found.level_db, 0, atol=1e-4)


def test_bands_hold_the_tones_that_lie_in_them() -> None:
    """White noise has energy in proportion to the bands' widths; a tone at 1 kHz is in the second alone."""
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32)
    found = image(panned(noise(), 0, 0), np.stack([tone, tone]))
    np.testing.assert_allclose(found.share[0].mean(0), np.diff(BANDS_HZ) / (8000 - 100), atol=0.02)
    np.testing.assert_allclose(found.share.sum(-1), 1, atol=1e-5)
    assert found.share[1, :, 1].min() > 0.99
    assert found.delay_share[1].min() > 0.99
    assert banded(torch.ones(8001), 16000).tolist() == [400, 1500, 2500, 3500]


def test_amplitudes_are_relative_to_the_loudest_window() -> None:
    loud = panned(noise(seconds=1.0), 0, 0)
    found = image(np.concatenate([loud, 0.1 * loud], axis=1))
    assert found.amplitude.max() == 1.0
    assert found.amplitude[0, -1].item() == pytest.approx(0.1, rel=0.1)


def test_between_windows_it_is_interpolated() -> None:
    found = image(np.concatenate([panned(noise(), -0.4, 0), panned(noise(1), 0.4, 0)], axis=1))
    times = torch.tensor([0.0, 1.0, 1.0625, 3.0, 99.0])
    there = found.at(times)
    np.testing.assert_allclose(there.delay_ms[0, [0, 1, 3, 4]], [-0.4, -0.4, 0.4, 0.4], atol=0.02)
    assert there.delay_ms[0, 2].item() == pytest.approx(found.delay_ms[0, 7:9].mean().item(), abs=1e-5)
    assert there.level_db.shape == (1, 5, BANDS)
    assert found.at(found.times) is found


def test_arrays_and_back() -> None:
    found = image(panned(noise(), 0.2, 3.0))
    again = StereoImage.of_arrays(found.arrays())
    assert torch.equal(again.times, found.times)
    assert torch.equal(again.side, found.side)
    assert stack([found, again]).share.shape == (2, 15, BANDS)


def test_other_windows_are_another_measurement() -> None:
    assert identity(0.25, 0.125) == identity(0.25, 0.125)
    assert len({identity(0.25, 0.125), identity(0.25, 0.25), identity(0.5, 0.125)}) == 3


def test_batches_of_any_size_measure_the_same() -> None:
    sounds = [panned(noise(i), 0.05 * i, i) for i in range(11)]
    together, alone = image(*sounds), image(sounds[10])
    np.testing.assert_allclose(together.delay_ms[10], alone.delay_ms[0], atol=1e-5)
    np.testing.assert_allclose(together.level_db[10], alone.level_db[0], atol=1e-4)
