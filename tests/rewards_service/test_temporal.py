"""The temporal reward prefers sounds whose onsets fall on the impacts."""

import numpy as np
import pytest
import torch

from rewards_service.scores import Reference
from rewards_service.temporal import TemporalScorer, pick_onsets
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
