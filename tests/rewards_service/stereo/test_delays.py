"""Delays between channels: against the released reward's own numbers, and against delays made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from rewards_service.errors import RewardError
from rewards_service.spatial import delay_ms
from rewards_service.stereo.delays import confidence, fine_correlation, official_delay_ms, spread

FIXTURES = Path(__file__).parent.parent / "fixtures"
GOLDEN = json.loads((FIXTURES / "itd.json").read_text())
BAND = (100.0, 2000.0)


def golden(kind: str) -> np.ndarray:
    return load_file(FIXTURES / f"{GOLDEN[kind]['file']}.safetensors")[kind] / 32767


def noise(samples: int, later: float, seed: int = 0, gain: float = 1.0) -> np.ndarray:
    """(2, samples) periodic noise whose right channel lags by `later` samples, exactly, and is `gain` times louder."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 0.1, samples))
    shift = np.exp(-2j * np.pi * np.fft.rfftfreq(samples) * later)
    shift[-1] = 1 if samples % 2 == 0 else shift[-1]
    return np.stack([np.fft.irfft(spectrum, samples), gain * np.fft.irfft(spectrum * shift, samples)])


@pytest.mark.parametrize("kind", GOLDEN)
def test_as_the_reference_measures(kind: str) -> None:
    sound, told = golden(kind), GOLDEN[kind]
    assert delay_ms(sound, 16000, BAND) == pytest.approx(told["band_100_2000_interp16_mean_ms"], abs=1e-6)
    assert delay_ms(sound, 16000) == pytest.approx(told["official_fullband_interp16_mean_ms"], abs=1e-6)
    audio = torch.from_numpy(sound)[None].float()
    for interpolation in (1, 16):
        found = official_delay_ms(audio, windows=16, interpolation=interpolation).item()
        assert found == pytest.approx(told[f"official_fullband_interp{interpolation}_mean_ms"], abs=1e-6)


@pytest.mark.parametrize("kind", GOLDEN)
def test_confidence_of_every_window_as_the_reference_measures(kind: str) -> None:
    left, right = spread(torch.from_numpy(golden(kind))[None], 3840, 16)[0]
    found = confidence(fine_correlation(left, right, 16000, 256, 16, BAND))
    np.testing.assert_allclose(found, GOLDEN[kind]["band_peak_to_mean"], atol=1e-6)


@pytest.mark.parametrize("rate", [44100, 48000])
@pytest.mark.parametrize("samples", [-12.25, 0.0, 7.5, 20.0])
@pytest.mark.parametrize("band", [None, BAND])
def test_fractions_of_samples_are_exact(rate: int, samples: float, band: tuple[float, float] | None) -> None:
    assert delay_ms(noise(rate, samples), rate, band) * rate / 1000 == pytest.approx(samples, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    later=st.floats(-15, 15), seed=st.integers(0, 99), gain=st.floats(0.01, 100), rate=st.sampled_from([16000, 22050])
)
def test_a_later_right_channel_is_positive_whatever_its_level(later: float, seed: int, gain: float, rate: int) -> None:
    """To half a step of the grid, 1/32 sample."""
    sound = noise(rate, later, seed, gain)
    assert delay_ms(sound, rate) * rate / 1000 == pytest.approx(later, abs=1 / 32 + 1e-6)


@settings(deadline=None, max_examples=30)
@given(later=st.floats(-12, 12), seed=st.integers(0, 99), level=st.floats(0, 0.5))
def test_swapped_channels_have_the_negative_delay(later: float, seed: int, level: float) -> None:
    sound = noise(16000, later, seed) + level * 0.1 * np.random.default_rng(seed + 1).normal(size=(2, 16000))
    for band in (None, BAND):
        assert delay_ms(sound[::-1].copy(), 16000, band) == pytest.approx(-delay_ms(sound, 16000, band), abs=1e-9)


def test_the_common_hiss_of_a_recording_hides_the_delay_from_the_full_band_alone() -> None:
    """A source below 2.5 kHz, 0.25 ms later on the right, with hiss above 3 kHz that both channels share."""
    bins = np.fft.rfftfreq(32000, 1 / 16000)
    low = np.fft.irfft(np.fft.rfft(noise(32000, 4.0)) * (bins < 2500))
    hiss = np.fft.irfft(np.fft.rfft(noise(32000, 0.0, 1)) * (bins > 3000))
    assert delay_ms(low + 0.1 * hiss, 16000) == pytest.approx(0.0, abs=0.01)
    assert delay_ms(low + 0.1 * hiss, 16000, BAND) == pytest.approx(0.25, abs=0.02)


def test_pauses_do_not_count() -> None:
    sound = np.concatenate([noise(16000, 6.0), np.zeros((2, 64000))], axis=1)
    assert delay_ms(sound, 16000) == pytest.approx(0.375, abs=1e-6)
    assert delay_ms(torch.from_numpy(sound).float(), 16000) == pytest.approx(0.375, abs=1e-6)


@pytest.mark.parametrize("sound", [np.zeros((2, 16000)), noise(16000, 0.0) * np.array([[1], [0]])])
def test_without_two_channels_to_compare_there_is_none(sound: np.ndarray) -> None:
    assert delay_ms(sound, 16000) == 0.0


def test_a_short_clip_is_one_window() -> None:
    assert delay_ms(noise(800, 3.0), 16000) == pytest.approx(3 / 16, abs=0.01)


@pytest.mark.parametrize(
    ("sound", "band", "told"),
    [
        (np.zeros(16000), None, r"shape \(2, samples\)"),
        (np.zeros((1, 2, 16000)), None, r"got \(1, 2, 16000\)"),
        (np.zeros((2, 10)), None, "2 ms of it"),
        (np.full((2, 16000), np.nan), None, "NaN"),
        (np.ones((2, 16000)), (2000.0, 100.0), "lower edge first"),
        (np.ones((2, 16000)), (9000.0, 10000.0), "8000 Hz"),
    ],
)
def test_what_cannot_be_measured_is_refused(sound: np.ndarray, band: tuple[float, float] | None, told: str) -> None:
    with pytest.raises(RewardError, match=told):
        delay_ms(sound, 16000, band)


def test_the_released_reward_hears_six_seconds_and_calls_silence_late() -> None:
    later, early = noise(96480, 8.0), noise(48000, -8.0)
    audio = torch.from_numpy(np.concatenate([later, early], axis=1)).float()
    found = official_delay_ms(torch.stack([audio, 0 * audio]))
    np.testing.assert_allclose(found, [0.5, 1.5], atol=1e-6)
