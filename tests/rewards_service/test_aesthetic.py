"""The aesthetic reward measures noise floor, level, bandwidth, clipping and offset."""

import numpy as np
import pytest

from rewards_service.aesthetic import AestheticScorer
from rewards_service.scores import Reference
from tests.rewards_service.conftest import RATE, World

SCORER = AestheticScorer()
ANY = Reference("c", "", 1.0, (), (), 1.0)


def measure(sound: np.ndarray) -> dict[str, float]:
    """What is measured of a (2, S) sound."""
    scores = SCORER.score(sound[None, None].astype(np.float32), RATE, [ANY], detail=True)
    assert scores.measured is not None
    return scores.measured[0][0] | {"value": scores.values.item()}


def stereo(sound: np.ndarray) -> np.ndarray:
    return np.tile(sound, (2, 1))


def faults(sounds: np.ndarray) -> dict[str, np.ndarray]:
    """The same sounds with one fault each."""
    noise = np.random.default_rng(0).normal(0, 1, sounds.shape).astype(np.float32)
    return {
        "hiss": sounds + 0.006 * noise,
        "loud hiss": sounds + 0.03 * noise,
        "overload": np.clip(4 * sounds, -1, 1),
        "overload turned down": np.clip(4 * sounds, -1, 1) / 4,
        "over full scale": 6 * sounds,
        "too quiet": sounds / 10,
        "offset": sounds + 0.05,
        "noise only": 0.06 * noise,
    }


@pytest.mark.parametrize("fault", list(faults(np.zeros(1))))
def test_every_fault_is_ranked_below_clean(world: World, fault: str) -> None:
    clean = SCORER.score(world.sounds, RATE, world.references).values
    spoiled = SCORER.score(faults(world.sounds)[fault], RATE, world.references).values
    assert clean.mean() > 0.85
    assert (spoiled < clean).all()
    assert spoiled.mean() < clean.mean() - 0.1


def test_noise_floor_and_level_are_measured_in_dbfs() -> None:
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.01, (2, RATE))
    sound[:, 4000:5600] += 0.5 * np.sin(np.arange(1600) * 0.4)
    found = measure(sound)
    assert found["noise_floor_db"] == pytest.approx(-40, abs=1)
    assert found["loud_db"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.2)


@pytest.mark.parametrize("top", [800, 2000, 5000])
def test_bandwidth_is_where_the_energy_ends_and_ignores_steady_noise(top: int) -> None:
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(rng.normal(size=RATE))
    spectrum[np.fft.rfftfreq(RATE, 1 / RATE) > top] = 0
    band = np.fft.irfft(spectrum) * (np.arange(RATE) > RATE // 3)
    assert measure(stereo(0.1 * band))["bandwidth_hz"] == pytest.approx(top, rel=0.06)
    hissing = 0.1 * band + rng.normal(0, 0.004, RATE)
    assert measure(stereo(hissing))["bandwidth_hz"] == pytest.approx(top, rel=0.12)


def test_clipping_share_counts_flat_tops_only() -> None:
    sine = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert measure(stereo(0.5 * sine))["clipping_share"] < 0.01
    # |sin| > 1/2 for two thirds of the time, of which the samples within 12 dB of the ceiling are 1 - 2 asin(1/8)/pi.
    cut = measure(stereo(np.clip(sine, -0.5, 0.5)))
    assert cut["clipping_share"] == pytest.approx((2 / 3) / (1 - 2 * np.arcsin(0.125) / np.pi), abs=0.07)
    assert cut["value"] < 1e-3


def test_offset_share_is_mean_over_rms() -> None:
    sine = 0.3 * np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)
    assert measure(stereo(sine + 0.2))["offset_share"] == pytest.approx(0.2 / np.hypot(0.3 / np.sqrt(2), 0.2), abs=1e-3)


def test_range_is_capped_so_that_gating_to_digital_silence_gains_nothing(world: World) -> None:
    gated = np.where(np.abs(world.sounds) > 2e-3, world.sounds, 0)
    clean = SCORER.score(world.sounds, RATE, world.references).values
    assert SCORER.score(gated, RATE, world.references).values.mean() < clean.mean() + 0.02
