import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.measures import (
    delay,
    event_pans,
    level_difference,
    log_mel_distance,
    match_count,
    measure,
    onset_f1,
    onsets,
)
from evaluation.spectra import power_frames
from rewards_service.scores import Reference
from settings import PrismError

RATE = 16_000
times = st.lists(st.floats(0, 2), max_size=5).map(sorted)


def clicks(at: tuple[float, ...], rate: int = RATE, gain: float = 0.3, seconds: float = 2.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(
        (np.where(t >= e, np.exp(-np.maximum(t - e, 0) / 0.05) * np.sin(2 * np.pi * 900 * (t - e)), 0.0) for e in at),
        np.zeros_like(t),
    )
    return np.stack([tone, tone]).astype(np.float32) * gain


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_onsets_are_found_at_any_rate(rate: int) -> None:
    at = (0.3, 0.95, 1.6)
    assert onsets(clicks(at, rate), rate) == pytest.approx(at, abs=0.012)


@pytest.mark.parametrize("window", [256, 353])
def test_power_spectra_by_hand(window: int) -> None:
    """One frame as a sum over samples, in double precision; a frame is centred on a multiple of the hop."""
    sound = np.random.default_rng(3).standard_normal((2, 4 * window))
    found = power_frames(sound, window, hop=64)
    first = 5 * 64 - window // 2
    turns = np.outer(np.arange(window // 2 + 1), np.arange(window)) / window
    lines = (sound[:, first : first + window] * np.hanning(window)) @ np.exp(-2j * np.pi * turns).T
    wanted = np.square(np.abs(lines)).sum(axis=0) / np.square(np.hanning(window)).sum()
    np.testing.assert_allclose(found[5], wanted, rtol=1e-4, atol=1e-5)


def test_level_and_polarity_do_not_move_onsets() -> None:
    loud, quiet = onsets(clicks((0.3, 1.0)), RATE), onsets(-clicks((0.3, 1.0), gain=0.003), RATE)
    assert loud == pytest.approx(quiet)


def test_onsets_ignore_what_is_no_event() -> None:
    rng = np.random.default_rng(0)
    assert len(onsets(np.zeros((2, 2 * RATE), np.float32), RATE)) == 0
    assert len(onsets(0.1 * rng.standard_normal((2, 2 * RATE)), RATE)) == 0
    hum = 0.1 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE)
    assert len(onsets(np.stack([hum, hum]) * np.hanning(2 * RATE), RATE)) == 0


def test_a_sound_cut_by_the_end_is_no_onset() -> None:
    assert onsets(clicks((0.4, 1.92)), RATE) == pytest.approx((0.4, 1.92), abs=0.012)
    ringing = np.exp(-np.arange(2 * RATE) / RATE / 3) * np.sin(2 * np.pi * 500 * np.arange(2 * RATE) / RATE)
    assert np.all(onsets(np.stack([ringing, ringing]), RATE) < 0.1)


def test_clean_scenes_are_heard_nearly_perfectly(clean: np.ndarray, references: list[Reference]) -> None:
    result = measure(clean, RATE, references, clean=clean).values
    assert result["onset_f1"].mean > 0.97
    assert result["count_exact"].mean > 0.9
    assert result["level_position_corr"].mean > 0.97
    assert result["delay_position_corr"].mean > 0.97
    assert result["log_mel_distance_db"].mean == 0.0


@pytest.mark.parametrize(
    ("found", "events", "f1"),
    [
        ([], [], 1.0),
        ([0.5], [], 0.0),
        ([], [0.5], 0.0),
        ([0.5, 1.0], [0.52, 1.5], 0.5),
        ([0.50, 0.56], [0.53], 2 / 3),
        ([0.5, 0.55], [0.45, 0.52], 1.0),
        ([0.571], [0.5], 0.0),
    ],
)
def test_f1_by_hand(found: list[float], events: list[float], f1: float) -> None:
    assert onset_f1(found, events) == pytest.approx(f1)


@given(times, times)
def test_matching_is_symmetric_and_as_large_as_any(a: list[float], b: list[float]) -> None:
    def best(rest: list[float], free: tuple[float, ...]) -> int:
        if not rest:
            return 0
        skip = best(rest[1:], free)
        takes = [1 + best(rest[1:], free[:i] + free[i + 1 :]) for i, e in enumerate(free) if abs(rest[0] - e) <= 0.07]
        return max([skip, *takes])

    assert match_count(a, b, 0.07) == match_count(b, a, 0.07) == best(a, tuple(b))


@given(st.floats(-12, 12), st.integers(-10, 10))
def test_level_and_delay_of_noise(level: float, samples: int) -> None:
    noise = np.random.default_rng(3).standard_normal(1700)
    left, right = noise[20 - samples : 20 - samples + 1600], noise[20:1620] * 10 ** (level / 20)
    segment = np.stack([left, right])
    assert level_difference(segment) == pytest.approx(level, abs=0.15)
    assert delay(segment, RATE) == pytest.approx(1000 * samples / RATE, abs=0.01)


def test_level_difference_is_bounded_for_one_sided_sound() -> None:
    assert level_difference(np.stack([np.ones(100), np.zeros(100)])) == -40.0
    assert level_difference(np.zeros((2, 100))) == 0.0


def test_inaudible_events_have_no_place(clean: np.ndarray, references: list[Reference]) -> None:
    silence = np.zeros_like(clean[0])
    assert event_pans(silence, RATE, references[0]) == []
    result = measure(silence[None], RATE, references[:1])
    assert result.audible == 0
    assert result.events == len(references[0].events)
    assert result.as_dict()["level_position_corr"] == {"mean": None, "stderr": None, "n": 0}


def test_mirrored_sound_reverses_the_correlation(clean: np.ndarray, references: list[Reference]) -> None:
    mirrored = measure(clean[:, ::-1], RATE, references).values
    assert mirrored["level_position_corr"].mean < -0.95
    assert mirrored["delay_position_corr"].mean < -0.95


def test_events_beyond_the_sound_are_skipped(clean: np.ndarray, references: list[Reference]) -> None:
    late = dataclasses.replace(references[0], events=(5.0,))
    assert event_pans(clean[0], RATE, late) == []


def test_distance_grows_with_damage(clean: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    small, large = (clean[0] + rng.normal(0, s, clean[0].shape) for s in (0.003, 0.03))
    assert 0 < log_mel_distance(small, clean[0], RATE) < log_mel_distance(large, clean[0], RATE)
    assert log_mel_distance(clean[0] * 2, clean[0], RATE) <= 20 * np.log10(2) + 1e-6


def test_top1_uses_the_given_judge(clean: np.ndarray, references: list[Reference]) -> None:
    result = measure(
        clean[:4], RATE, references[:4], labels=["a", "b", "c", "d"], classify=lambda w, r: ["a", "b", "x", "x"]
    )
    assert result.values["class_top1"].mean == 0.5
    assert result.scenes["class_top1"].tolist() == [1, 1, 0, 0]


def test_wrong_input_is_refused(clean: np.ndarray, references: list[Reference]) -> None:
    with pytest.raises(PrismError, match="stereo"):
        measure(clean[:, 0], RATE, references)
    with pytest.raises(PrismError, match="2 waveforms came with 1 references"):
        measure(clean[:2], RATE, references[:1])
    broken = clean[:2].copy()
    broken[1, 0, 5] = np.nan
    with pytest.raises(PrismError, match="clip-1"):
        measure(broken, RATE, references[:2])
