"""Rules that all four rewards share: shapes, silence, values that are not numbers, any rate and length."""

import numpy as np
import pytest
import torch

from rewards_service.aesthetic import AestheticScorer
from rewards_service.batch import prepare
from rewards_service.contrastive import ContrastiveEncoder
from rewards_service.errors import RewardError
from rewards_service.scores import Reference, Scorer
from rewards_service.semantic import SemanticScorer
from rewards_service.spatial import SpatialScorer
from rewards_service.temporal import TemporalScorer
from tests.rewards_service.conftest import RATE, World

REFERENCE = Reference("c", "A glass marble bouncing.", 1.0, (0.3, 0.7), (0.2, 0.4), 2.0)


@pytest.fixture(scope="module")
def scorers(encoder: ContrastiveEncoder, tmp_path_factory: pytest.TempPathFactory) -> list[Scorer]:
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    encoder.save(path)
    return [SemanticScorer(path), TemporalScorer(), AestheticScorer(), SpatialScorer()]


def test_level_is_measured_in_dbfs() -> None:
    square = np.full((1, 1, 2, 1000), 0.1, np.float32)
    assert prepare(square, 8000, [REFERENCE]).rms_db.item() == pytest.approx(-20.0, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 2, 8000), 1), ((1, 1, 1, 8000), 1), ((2, 1, 2, 8000), 1), ((1, 1, 2, 100), 1)]
)
def test_wrong_shapes_are_refused_with_the_shape(shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(RewardError, match=r"\(groups, members, 2, samples\)|one reference a group|0.05 s"):
        prepare(np.zeros(shape, np.float32), 8000, [REFERENCE] * count)


def test_sound_is_borrowed_and_only_copied_when_numpy_does_not_lend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.full((1, 1, 2, 1000), 0.1, np.float32)
    sound.flags.writeable = False
    assert prepare(sound, 8000, [REFERENCE]).audio.data_ptr() == sound.ctypes.data

    def refuse(_: np.ndarray) -> torch.Tensor:
        raise BufferError

    monkeypatch.setattr(torch, "from_dlpack", refuse)
    copied = prepare(sound, 8000, [REFERENCE])
    assert copied.audio.data_ptr() != sound.ctypes.data
    np.testing.assert_array_equal(copied.audio.numpy(), sound[0])


def test_silence_is_a_measured_zero(scorers: list[Scorer]) -> None:
    quiet = np.random.default_rng(0).normal(0, 5e-4, (1, 3, 2, RATE)).astype(np.float32)
    quiet[0, 0] = 0
    for scorer in scorers:
        scores = scorer.score(quiet, RATE, [REFERENCE], detail=True)
        assert scores.values.tolist() == [[0, 0, 0]], type(scorer).__name__
        assert not scores.missing
        assert scores.measured is not None
        assert all(sample["silent"] for sample in scores.measured[0])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_no_number_is_missing_and_spoils_nothing_else(
    scorers: list[Scorer], world: World, poison: float
) -> None:
    sounds = np.repeat(world.sounds[:2], 2, axis=1)
    clean = {type(scorer).__name__: scorer.score(sounds, RATE, world.references[:2]).values for scorer in scorers}
    sounds[1, 0, 1, 123] = poison
    for scorer in scorers:
        scores = scorer.score(sounds, RATE, world.references[:2], detail=True)
        assert list(scores.missing) == [(1, 0)]
        assert "NaN" in scores.missing[1, 0]
        assert np.isnan(scores.values[1, 0])
        others = np.array([[True, True], [False, True]])
        np.testing.assert_allclose(scores.values[others], clean[type(scorer).__name__][others], atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.06, 0.7, 3.0])
def test_any_rate_and_length_gives_scores_in_range(scorers: list[Scorer], rate: int, seconds: float) -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, (1, 2, 2, round(rate * seconds))).astype(np.float32)
    for reference in (REFERENCE, Reference("none", "", 1.0, (), (), 1.0), Reference("late", "x", 1.0, (9.0,), (), 1.0)):
        for scorer in scorers:
            values = scorer.score(sound, rate, [reference], detail=True).values
            assert ((values >= 0) & (values <= 1)).all(), (type(scorer).__name__, reference.clip_id)


def test_scores_hardly_depend_on_the_rate(scorers: list[Scorer], world: World) -> None:
    import soxr

    fine = np.stack([soxr.resample(s[0].T, RATE, 44100).T for s in world.sounds[:6]])[:, None].astype(np.float32)
    for scorer in scorers:
        here = scorer.score(world.sounds[:6], RATE, world.references[:6]).values
        there = scorer.score(fine, 44100, world.references[:6]).values
        assert abs(here.mean() - there.mean()) < 0.05, type(scorer).__name__


def test_read_only_arrays_are_scored_and_not_written(scorers: list[Scorer], world: World) -> None:
    sounds = world.sounds[:2].copy()
    before = sounds.copy()
    sounds.flags.writeable = False
    for scorer in scorers:
        scorer.score(sounds, RATE, world.references[:2], detail=True)
    np.testing.assert_array_equal(sounds, before)


@pytest.mark.parametrize("shift", [1, 3, 8])
def test_scores_do_not_depend_on_where_the_bytes_lie(scorers: list[Scorer], world: World, shift: int) -> None:
    sounds = world.sounds[:2]
    moved = np.empty(sounds.size + shift, np.float32)[shift:].reshape(sounds.shape)
    moved[:] = sounds
    for scorer in scorers:
        here = scorer.score(sounds, RATE, world.references[:2]).values
        np.testing.assert_array_equal(scorer.score(moved, RATE, world.references[:2]).values, here)


def test_a_sample_scores_the_same_alone_and_in_a_batch(scorers: list[Scorer], world: World) -> None:
    for scorer in scorers:
        together = scorer.score(world.sounds, RATE, world.references).values
        alone = scorer.score(world.sounds[5:6], RATE, world.references[5:6]).values
        np.testing.assert_allclose(alone[0], together[5], atol=2e-5)
