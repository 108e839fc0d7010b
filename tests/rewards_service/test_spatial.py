"""The spatial reward measures delay and level difference and compares them with the place on screen."""

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from rewards_service.scores import Reference
from rewards_service.spatial import SpatialScorer
from tests.rewards_service.conftest import RATE, World

SCORER = SpatialScorer()


def mean(sounds: np.ndarray, world: World) -> float:
    return float(SCORER.score(sounds, RATE, world.references).values.mean())


def placed(delay_s: float, level_db: float, rate: int = RATE) -> np.ndarray:
    """A noise burst at 0.2 s whose left channel lags by `delay_s` and whose right one is `level_db` louder."""
    rng = np.random.default_rng(0)
    count = rate
    later = np.arange(count) / rate - 0.2
    burst = rng.normal(size=count) * np.where(later >= 0, np.exp(-later.clip(0) / 0.02), 0)
    bins = np.fft.rfftfreq(count, 1 / rate)
    spectrum = np.fft.rfft(burst)
    channels = []
    for side in (1, -1):
        shifted = np.fft.irfft(spectrum * np.exp(-2j * np.pi * bins * side * delay_s / 2), count)
        channels.append(shifted * 10 ** (-side * level_db / 40))
    return (0.1 * np.stack(channels))[None, None].astype(np.float32)


@given(x=st.floats(-1, 1), y=st.floats(-1, 1))
def test_delay_and_level_are_measured_apart(x: float, y: float) -> None:
    sound = placed(x * 0.000625, y * 12)
    scores = SCORER.score(sound, RATE, [Reference("c", "", 1.0, (0.2,), (x, x), 2.0)], detail=True)
    assert scores.measured is not None
    (window,) = scores.measured[0][0]["windows"]
    assert window["delay_ms"] == pytest.approx(0.625 * x, abs=0.012)
    assert window["level_db"] == pytest.approx(12 * y, abs=0.3)
    wanted = 0.5 + 0.5 * np.exp(-abs(y - x) / 0.3)
    assert scores.values.item() == pytest.approx(wanted, abs=0.06)


@pytest.mark.parametrize("rate", [22050, 48000])
def test_delay_is_in_seconds_at_any_rate(rate: int) -> None:
    scores = SCORER.score(placed(0.0004, 6.0, rate), rate, [Reference("c", "", 1.0, (0.2,), (0.6,), 2.0)], detail=True)
    assert scores.measured is not None
    assert scores.measured[0][0]["windows"][0]["delay_ms"] == pytest.approx(0.4, abs=0.012)


def test_clean_worlds_score_high_and_wrong_places_lower(world: World) -> None:
    clean = mean(world.sounds, world)
    swapped = mean(world.sounds[:, :, ::-1], world)
    centred = mean(np.repeat(world.sounds.mean(2, keepdims=True), 2, 2), world)
    elsewhere = mean(np.roll(world.sounds, 1, axis=0), world)
    assert clean > 0.9
    assert max(swapped, centred, elsewhere) < clean - 0.3
    assert swapped < centred


def test_level_alone_or_delay_alone_is_half_of_it(world: World) -> None:
    levels = np.sqrt((world.sounds**2).mean(-1, keepdims=True))
    mono = np.repeat(world.sounds.mean(2, keepdims=True), 2, 2)
    by_level = mono * levels / levels.mean(2, keepdims=True)
    centred, half, clean = mean(mono, world), mean(by_level, world), mean(world.sounds, world)
    assert centred < half < clean
    assert half < 0.5 + clean / 2


def test_without_impacts_the_whole_clip_is_judged(world: World) -> None:
    blind = [Reference(r.clip_id, r.text, r.seconds, (), r.positions, r.position_fps) for r in world.references]
    clean = SCORER.score(world.sounds, RATE, blind, detail=True)
    swapped = SCORER.score(world.sounds[:, :, ::-1], RATE, blind)
    assert clean.values.mean() > swapped.values.mean() + 0.3
    assert clean.measured is not None
    assert "over the whole clip" in clean.measured[0][0]["basis"]


def test_clips_with_and_without_impacts_share_a_batch(world: World) -> None:
    blind = Reference("blind", "", 2.0, (), world.references[0].positions, 16.0)
    mixed = SCORER.score(world.sounds[:2], RATE, [blind, world.references[1]]).values
    alone = [
        SCORER.score(world.sounds[i : i + 1], RATE, [r]).values.item()
        for i, r in ((0, blind), (1, world.references[1]))
    ]
    np.testing.assert_allclose(mixed[:, 0], alone, atol=1e-5)


def test_an_impact_at_the_very_end_is_heard() -> None:
    sound = np.roll(placed(0.0003, 6.0), round(0.78 * RATE), -1)
    scores = SCORER.score(sound, RATE, [Reference("c", "", 1.0, (0.98,), (0.5,), 16.0)], detail=True)
    assert scores.measured is not None
    assert scores.measured[0][0]["windows"][0]["delay_ms"] == pytest.approx(0.3, abs=0.03)
    assert scores.values.item() > 0.8


def test_unknown_positions_mean_the_centre() -> None:
    sound = placed(0.0, 0.0)
    assert SCORER.score(sound, RATE, [Reference("c", "", 1.0, (0.2,), (), 16.0)]).values.item() > 0.95


def test_noise_in_one_channel_is_not_a_place() -> None:
    rng = np.random.default_rng(0)
    loud_right = rng.normal(0, 0.1, (1, 1, 2, RATE)).astype(np.float32) * np.array([0.01, 1.0], np.float32)[:, None]
    scores = SCORER.score(loud_right, RATE, [Reference("c", "", 1.0, (0.2,), (0.0,), 16.0)])
    assert scores.values.item() < 0.5


def test_resampled_world_keeps_its_places(world: World) -> None:
    coarse = np.stack([soxr.resample(s[0].T, RATE, 32000).T for s in world.sounds])[:, None].astype(np.float32)
    scores = SCORER.score(coarse, 32000, world.references).values.mean()
    assert scores == pytest.approx(mean(world.sounds, world), abs=0.04)
