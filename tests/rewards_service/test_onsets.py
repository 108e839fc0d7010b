"""Onsets against those of the reference clip's own sound."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from rewards_service.onsets import NO_ONSET, NO_SOUND, OnsetScorer
from rewards_service.scores import Reference

RATE = 16000


def clicks(*times: float, seconds: float = 2.0) -> np.ndarray:
    """(2, S) short decaying tones at these times."""
    sound = np.zeros((2, round(seconds * RATE)), np.float32)
    for time in times:
        start = round(time * RATE)
        t = np.arange(min(1600, sound.shape[1] - start)) / RATE
        sound[:, start : start + len(t)] += np.float32(0.5) * np.exp(-40 * t) * np.sin(2 * np.pi * 900 * t)
    return sound


def reference(folder: Path, sound: np.ndarray | None, seconds: float = 2.0) -> Reference:
    path = folder / "own.wav"
    if sound is not None:
        wavfile.write(path, RATE, sound.T)
    return Reference("a", "", seconds, (), (), 1.0, uri=str(path))


def test_an_onset_off_by_d_scores_the_bell(tmp_path: Path) -> None:
    own = reference(tmp_path, clicks(0.5, 1.2))
    shifted = [clicks(0.5 + d, 1.2 + d) for d in (0.0, 0.02, 0.05, -0.05, 0.2)]
    values = OnsetScorer().score(np.stack(shifted)[None], RATE, [own]).values[0]
    assert values[0] == pytest.approx(1.0, abs=1e-3)
    assert values[1:4] == pytest.approx(np.exp(-(np.array([0.02, 0.05, 0.05]) ** 2) / (4 * 0.035**2)), abs=0.05)
    assert values[4] < 0.02


def test_missing_and_additional_onsets_cost(tmp_path: Path) -> None:
    own = reference(tmp_path, clicks(0.4, 0.9, 1.4))
    sounds = [clicks(0.4, 0.9, 1.4), clicks(0.4, 0.9), clicks(0.4, 0.9, 1.15, 1.4, 1.7)]
    right, fewer, more = OnsetScorer().score(np.stack(sounds)[None], RATE, [own]).values[0]
    assert right > 0.99
    assert fewer == pytest.approx(np.sqrt(2 / 3), abs=0.03)
    assert more == pytest.approx(np.sqrt(3 / 5), abs=0.03)


def test_silence_is_worth_nothing_and_noise_little(tmp_path: Path) -> None:
    own = reference(tmp_path, clicks(0.5))
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 2 * RATE)).astype(np.float32)
    silent, noisy = OnsetScorer().score(np.stack([np.zeros_like(noise), noise])[None], RATE, [own]).values[0]
    assert silent == 0
    assert noisy < 0.25


def test_references_that_say_nothing_are_gated_and_unreadable_ones_missing(tmp_path: Path) -> None:
    steady = np.full((2, 2 * RATE), 0.0, np.float32)
    steady[:] = 0.2 * np.sin(2 * np.pi * 300 * np.arange(2 * RATE) / RATE)
    told = OnsetScorer().score(clicks(0.5)[None, None], RATE, [reference(tmp_path, steady)])
    assert told.gated == {0: NO_ONSET}
    assert np.isnan(told.values).all()
    assert not told.missing
    assert OnsetScorer().score(clicks(0.5)[None, None], RATE, [Reference("b", "", 2.0, (), (), 1.0)]).gated == {
        0: NO_SOUND
    }
    gone = OnsetScorer().score(clicks(0.5)[None, None], RATE, [reference(tmp_path / "nowhere", None)])
    assert "cannot be read" in gone.missing[0, 0]
    assert not gone.gated


def test_the_details_list_both_sides(tmp_path: Path) -> None:
    told = OnsetScorer().score(clicks(0.5, 1.3)[None, None], RATE, [reference(tmp_path, clicks(0.8))], detail=True)
    assert told.measured is not None
    row = told.measured[0][0]
    assert row["onsets_s"] == pytest.approx([0.5, 1.3], abs=0.02)
    assert row["reference_onsets_s"] == pytest.approx([0.8], abs=0.02)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_rate_and_a_frame_more_or_less(tmp_path: Path, rate: int) -> None:
    own = reference(tmp_path, clicks(0.5, 1.2))
    import soxr

    sound = soxr.resample(clicks(0.5, 1.2).T, RATE, rate).T[:, : round(1.983 * rate)].astype(np.float32)
    assert OnsetScorer().score(sound[None, None], rate, [own]).values[0, 0] > 0.95
