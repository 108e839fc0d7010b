"""The temporal reward prefers sounds whose onsets fall on the impacts."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards_service.errors import RewardError
from rewards_service.scores import Reference
from rewards_service.temporal import (
    TemporalScorer,
    desync,
    expected_offset,
    likeliest_offset,
    official_reward,
    pick_onsets,
    reward,
    signed_offset,
)
from tests.rewards_service.conftest import RATE, World

SCORER = TemporalScorer()


def clicks(*times: float, seconds: float = 2.0) -> np.ndarray:
    """Decaying noise bursts at the given times, (1, 1, 2, S)."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 1e-4, int(seconds * RATE))
    for time in times:
        at = round(time * RATE)
        tail = np.arange(min(1600, len(sound) - at))
        sound[at : at + len(tail)] += 0.3 * rng.normal(size=len(tail)) * np.exp(-tail / 300)
    return np.tile(sound.astype(np.float32), (1, 1, 2, 1))


def reference(*events: float) -> Reference:
    return Reference("clip", "", 2.0, events, (), 16.0)


def mean(sounds: np.ndarray, world: World) -> float:
    return float(SCORER.score(sounds, RATE, world.references).values.mean())


def test_an_onset_off_by_d_scores_a_bell_of_d() -> None:
    # Two equal bells of width w, d apart, have the cosine exp(-d^2 / 4 w^2); the measured bell is slightly wider.
    for late in (0.0, 0.03, 0.06):
        value = SCORER.score(clicks(0.8 + late), RATE, [reference(0.8)]).values.item()
        assert value == pytest.approx(np.exp(-(late**2) / (4 * 0.035**2)), abs=0.12)


def test_one_of_two_impacts_scores_the_cosine_of_45_degrees() -> None:
    both, one, three = (clicks(*t) for t in ((0.5, 1.3), (0.5,), (0.5, 0.9, 1.3)))
    wanted = [reference(0.5, 1.3)]
    assert SCORER.score(both, RATE, wanted).values.item() > 0.95
    assert SCORER.score(one, RATE, wanted).values.item() == pytest.approx(np.sqrt(1 / 2), abs=0.04)
    assert SCORER.score(three, RATE, wanted).values.item() == pytest.approx(np.sqrt(2 / 3), abs=0.04)


def test_clean_worlds_score_high_and_wrong_timing_lower(world: World) -> None:
    clean = mean(world.sounds, world)
    late = [mean(np.roll(world.sounds, round(s * RATE), -1), world) for s in (0.03, 0.06, 0.1)]
    early = [mean(np.roll(world.sounds, -round(s * RATE), -1), world) for s in (0.03, 0.06, 0.1)]
    assert clean > 0.95
    assert clean > late[0] > late[1] > late[2]
    assert clean > early[0] > early[1] > early[2]
    assert late[2] < 0.35
    assert early[2] < 0.35


@pytest.mark.parametrize("kind", ["other scene", "white noise", "click train", "tone"])
def test_sounds_without_the_timing_score_low_on_every_scene(world: World, kind: str) -> None:
    shape = world.sounds.shape
    sounds = {
        "other scene": np.roll(world.sounds, 1, axis=0),
        "white noise": np.random.default_rng(0).normal(0, 0.05, shape).astype(np.float32),
        "click train": np.broadcast_to(clicks(*np.arange(0.05, 1.95, 0.1).tolist()), shape),
        "tone": np.broadcast_to((0.1 * np.sin(np.arange(shape[-1]) * 0.3)).astype(np.float32), shape),
    }[kind]
    clean = SCORER.score(world.sounds, RATE, world.references).values
    assert (SCORER.score(sounds, RATE, world.references).values < clean).all()
    assert mean(sounds, world) < 0.55


def test_level_does_not_matter(world: World) -> None:
    assert mean(world.sounds * 0.1, world) == pytest.approx(mean(world.sounds, world), abs=1e-4)


def test_details_list_onsets_and_offsets() -> None:
    scores = SCORER.score(clicks(0.52, 1.3), RATE, [reference(0.5, 1.3)], detail=True)
    assert scores.measured is not None
    found = scores.measured[0][0]
    assert found["onsets_s"] == pytest.approx([0.52, 1.3], abs=0.006)
    assert found["offsets_ms"] == pytest.approx([20, 0], abs=6)
    assert found["basis"] == "impacts seen in the picture"


def test_without_impacts_steady_sounds_win() -> None:
    rng = np.random.default_rng(3)
    steady = rng.normal(0, 0.05, (1, 1, 2, 2 * RATE)).astype(np.float32)
    scores = [SCORER.score(s, RATE, [reference()], detail=True) for s in (steady, clicks(0.5, 1.0))]
    assert scores[0].values.item() > 2 * scores[1].values.item()
    assert scores[0].measured is not None
    assert "no visible impacts" in scores[0].measured[0][0]["basis"]


def test_onsets_closer_than_the_gap_are_one() -> None:
    strength = np.zeros(50)
    strength[[10, 13, 30]] = 5, 9, 8
    assert pick_onsets(strength, np.arange(50.0), least=1.0) == [13, 30]
    assert pick_onsets(np.zeros(50), np.arange(50.0), least=1.0) == []


def test_onset_strength_of_a_steady_tone_is_nothing() -> None:
    tone = torch.sin(torch.arange(RATE) * (2 * torch.pi * 1000 / RATE)).expand(1, 2, -1).contiguous()
    assert SCORER.onset_strength(tone).amax() < 0.5


GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "synch.json").read_text())
"""By the code of the released reward and of av-benchmark."""

KINDS = pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda x: torch.tensor(x).requires_grad_()])


def synchformers(kind: Callable[[Any], Any] = list) -> tuple[Any, Any]:
    return kind(GOLDEN["logits_first_window"]), kind(GOLDEN["logits_last_window"])


@KINDS
def test_rewards_are_the_originals(kind: Callable[[Any], Any]) -> None:
    first, last = synchformers(kind)
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    close(official_reward(first), GOLDEN["reward_official_first_window"])
    close(1 - expected_offset(first) / 2, GOLDEN["expected_offset_reward_first"])
    close(1 - expected_offset(last) / 2, GOLDEN["expected_offset_reward_last"])
    close(reward(first, last), GOLDEN["expected_offset_reward_mean"])
    close(signed_offset(first), GOLDEN["expected_signed_offset_first"])
    close(desync(first, last), GOLDEN["desync_av_benchmark"])
    assert isinstance(desync(first, last), float)


def test_the_lowest_of_equal_offsets_is_the_likeliest() -> None:
    first, last = synchformers()
    grid = np.array(GOLDEN["grid"])
    np.testing.assert_allclose(likeliest_offset(first), grid[GOLDEN["argmax_first"]], atol=1e-6)
    np.testing.assert_allclose(likeliest_offset(last), grid[GOLDEN["argmax_last"]], atol=1e-6)
    assert likeliest_offset(np.zeros(21)) == -2
    per_window = np.abs([likeliest_offset(first), likeliest_offset(last)]).T.ravel()
    assert sorted(per_window) == pytest.approx(sorted(GOLDEN["desync_per_window"]), abs=1e-6)


def test_any_leading_axes() -> None:
    first, _ = synchformers(np.array)
    np.testing.assert_array_equal(expected_offset(first.reshape(2, 2, 2, 21)).ravel(), expected_offset(first))
    assert official_reward(first[0]) == 0.5


def test_evenly_likely_offsets_are_a_second_off() -> None:
    # The mean of |-2|, |-1.8|, ..., |2| is 2 (0.2 + ... + 2) / 21 = 22 / 21.
    assert expected_offset(np.zeros(21)) == pytest.approx(22 / 21)
    assert reward(np.zeros((1, 21)), np.zeros((1, 21))) == pytest.approx(1 - 11 / 21)


def test_rows_that_are_no_numbers_stay_none() -> None:
    first, last = synchformers(np.array)
    first[2, 5], first[3, 0] = np.nan, np.inf
    for measure in (expected_offset, signed_offset, likeliest_offset, official_reward):
        assert np.flatnonzero(np.isnan(measure(first))).tolist() == [2, 3]
    assert np.isnan(desync(first, last))


def test_other_shapes_are_refused() -> None:
    first, last = synchformers(np.array)
    with pytest.raises(RewardError, match=r"21 classes.*\(8, 20\)"):
        expected_offset(first[:, :20])
    with pytest.raises(RewardError, match="both windows"):
        desync(first, last[:3])
    with pytest.raises(RewardError, match="at least one clip"):
        desync(first[:0], last[:0])


@given(st.integers(0, 20), st.floats(-300, 300), st.floats(30, 500))
def test_a_sure_answer_is_its_offset_at_any_level(place: int, level: float, sure: float) -> None:
    logits = np.full(21, level)
    logits[place] += sure
    offset = -2 + 0.2 * place
    assert likeliest_offset(logits) == pytest.approx(offset)
    assert expected_offset(logits) == pytest.approx(abs(offset), abs=1e-9)
    assert official_reward(logits) == pytest.approx((2 - abs(offset)) / 4)
