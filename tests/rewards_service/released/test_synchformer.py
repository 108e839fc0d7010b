"""Synchformer as a reward, with random weights, on videos of rendered scenes."""

import json
import pickle
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from foundation import synchformer_audio
from foundation.errors import CheckpointError
from foundation.release import Release
from foundation.released_encoders import ReleasedEncoders
from foundation.synchformer import SynchformerVisual
from foundation.synchronisation import Synchformer
from media.features import SYNC, FeatureStore, stretch_id
from media.frames import read_frames
from media.manifest import sha256_of
from media.squares import cropped_square
from media.stretches import Stretch, write_stretches
from pipelines.forge import synchformer
from rewards_service import temporal
from rewards_service.build import build_scorer
from rewards_service.config import RewardConfig, ScorerConfig
from rewards_service.errors import RewardConfigError, RewardError
from rewards_service.released.synchformer import SynchformerScorer
from rewards_service.scores import Reference
from rewards_service.service.actor import RewardActor
from rewards_service.service.deploy import launch
from tests.rewards_service.released.clips import RATE, Film, make_film, small_synchformer

FILE = "synchformer_state_dict.pth"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    """Two videos of 6 s: 17 segments, windows at 0 and 0.96 s."""
    folder = tmp_path_factory.mktemp("films")
    return [make_film(folder / f"film{k}.mp4", k) for k in range(2)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / FILE
    torch.save(small_synchformer().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def scorer(weights: Path) -> SynchformerScorer:
    return SynchformerScorer(weights)


@pytest.fixture(scope="module")
def sounds(films: list[Film]) -> np.ndarray:
    """(2, 3, 2, S): each film's own sound, that of the other, and its own 0.4 s late."""
    own = np.stack([film.sound for film in films])
    return np.stack([own, own[::-1], np.roll(own, round(0.4 * RATE), -1)], axis=1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of frames of every clip that the visual tower looks at."""
    seen: list[int] = []
    features: Callable[..., Any] = SynchformerVisual.features

    def counted(self: SynchformerVisual, frames: np.ndarray, batch: int = 4) -> Any:
        seen.append(len(frames))
        return features(self, frames, batch)

    monkeypatch.setattr(SynchformerVisual, "features", counted)
    return seen


def references(films: list[Film], **changes: Any) -> list[Reference]:
    return [replace(film.reference, **changes) for film in films]


def by_hand(weights: Path, film: Film, sound: np.ndarray, places: list[int]) -> torch.Tensor:
    """(21,) logits of a window, each part asked by itself."""
    model = Synchformer.load(weights)
    frames = read_frames(film.reference.uri, 25, 0, film.reference.seconds, lambda f: cropped_square(f, 64))
    clips = torch.from_numpy(np.stack([frames[8 * k : 8 * k + 16] for k in places])).permute(0, 1, 4, 2, 3)
    mono = torch.from_numpy(sound.mean(0))
    heard = torch.stack([synchformer_audio.log_mel(mono[5120 * k : 5120 * k + 10240]) for k in places])
    visual, audio = model.vfeat_extractor(clips.float() / 127.5 - 1), model.afeat_extractor(heard)
    return model(visual[None], audio[None])[0]


def test_scores_are_the_models_offsets_in_both_windows(
    scorer: SynchformerScorer, weights: Path, films: list[Film], sounds: np.ndarray
) -> None:
    scores = scorer.score(sounds, RATE, references(films), detail=True)
    first, last = (by_hand(weights, films[1], sounds[1, 2], list(places)) for places in (range(14), range(3, 17)))
    assert (first - last).abs().max() > 0.01
    assert scores.values[1, 2] == pytest.approx(temporal.reward(first, last), abs=1e-5)
    assert len({*scores.values.ravel().round(6)}) == 6
    assert not scores.missing
    assert not scores.gated
    assert scores.measured is not None
    found = scores.measured[1][2]
    assert found["windows_start_s"] == [0.0, 0.96]
    both = torch.stack([first, last])
    assert found["expected_offset_s"] == pytest.approx(temporal.expected_offset(both), abs=1e-4)
    assert found["signed_offset_s"] == pytest.approx(temporal.signed_offset(both), abs=1e-4)
    assert found["likeliest_offset_s"] == pytest.approx(temporal.likeliest_offset(both))
    assert found["guard"] == 1
    assert "first and in its last window" in found["basis"]
    json.dumps(scores.measured)


def test_several_are_scored_as_one_by_one(weights: Path, films: list[Film], sounds: np.ndarray) -> None:
    asked = references(films)
    asked[1] = replace(asked[1], start=0.5, seconds=5.2)  # another number of segments in the same batch
    together = SynchformerScorer(weights, batch=4, segments=10).score(sounds, RATE, asked)
    alone = SynchformerScorer(weights, batch=1, visual_segments=1)
    for g in range(2):
        for n in range(3):
            one = alone.score(sounds[g : g + 1, n : n + 1], RATE, asked[g : g + 1])
            assert one.values[0, 0] == pytest.approx(together.values[g, n], abs=1e-4)


def test_a_clip_is_looked_at_once(weights: Path, films: list[Film], sounds: np.ndarray, looks: list[int]) -> None:
    scorer = SynchformerScorer(weights)
    before = scorer.score(sounds, RATE, references(films))
    assert looks == [150, 150]
    after = scorer.score(0.5 * sounds[:, ::-1], RATE, references(films))
    assert looks == [150, 150]
    assert not np.array_equal(after.values[:, ::-1], before.values)
    # Another stretch of the same file is another clip.
    scorer.score(sounds[:1], RATE, references(films[:1], start=1.0, seconds=5.0))
    assert looks == [150, 150, 125]
    assert scorer.tokens.counts == {"remembered": 2, "computed": 3, "stored": 0}


def test_what_does_not_fit_into_the_cache_is_computed_again(
    weights: Path, films: list[Film], sounds: np.ndarray, looks: list[int]
) -> None:
    scorer = SynchformerScorer(weights, cache_mb=1.5 * 17 * 8 * 64 * 4 / 2**20)  # one clip and a half
    for k in (0, 0, 1, 0):
        scorer.score(sounds[:1], RATE, references(films[k : k + 1]))
    assert len(looks) == 3
    assert scorer.tokens.bytes == 17 * 8 * 64 * 4


def encoders(weights: Path, dtype: torch.dtype = torch.float32) -> ReleasedEncoders:
    return ReleasedEncoders(Release(weights.parent, weights, synchformer=weights), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_that_condition_the_model_are_not_computed_again(
    weights: Path, films: list[Film], sounds: np.ndarray, looks: list[int], tmp_path: Path, dtype: torch.dtype
) -> None:
    store, extracting = FeatureStore(tmp_path), encoders(weights, dtype)
    for film in films:
        r = film.reference
        tokens = extracting.sync(r.uri, r.start, r.seconds)
        store.write(extracting.identity("synchformer"), {stretch_id(sha256_of(r.uri), 0, 6): {SYNC: tokens}})
    looks.clear()
    scorer = SynchformerScorer(weights, store=str(tmp_path))
    values = scorer.score(sounds, RATE, references(films)).values
    assert not looks
    assert scorer.tokens.counts["stored"] == 2
    np.testing.assert_allclose(
        values, SynchformerScorer(weights).score(sounds, RATE, references(films)).values, atol=1e-3
    )


def test_a_node_without_the_video_finds_its_tokens_by_the_table_of_stretches(
    weights: Path, films: list[Film], sounds: np.ndarray, tmp_path: Path
) -> None:
    extracting, r = encoders(weights), films[0].reference
    tokens = {SYNC: extracting.sync(r.uri, 0, 6)}
    FeatureStore(tmp_path).write(extracting.identity("synchformer"), {"abc-0-6000": tokens})
    write_stretches(tmp_path, [Stretch("abc-0-6000", "film0", "s3://bucket/film0.mp4", 0.0, 6.0, "abc")])
    elsewhere = [replace(r, uri=f"s3://bucket/film{k}.mp4") for k in range(2)]
    scores = SynchformerScorer(weights, store=tmp_path).score(sounds, RATE, elsewhere)
    here = SynchformerScorer(weights).score(sounds[:1], RATE, [r])
    np.testing.assert_allclose(scores.values[0], here.values[0], atol=1e-3)
    assert set(scores.missing) == {(1, 0), (1, 1), (1, 2)}
    assert "no such file" in scores.missing[1, 0]


def test_tokens_of_other_weights_are_left_alone(
    weights: Path, films: list[Film], sounds: np.ndarray, looks: list[int], tmp_path: Path
) -> None:
    other = tmp_path / "other" / FILE
    other.parent.mkdir()
    torch.save(small_synchformer(seed=1).state_dict(), other)
    extracting, r = encoders(other), films[0].reference
    tokens = {SYNC: extracting.sync(r.uri, 0, 6)}
    FeatureStore(tmp_path / "store").write(
        extracting.identity("synchformer"), {stretch_id(sha256_of(r.uri), 0, 6): tokens}
    )
    looks.clear()
    scorer = SynchformerScorer(weights, store=tmp_path / "store")
    scorer.score(sounds[:1], RATE, [r])
    assert looks == [150]


def test_stored_tokens_of_another_shape_are_missing_scores(
    weights: Path, films: list[Film], sounds: np.ndarray, tmp_path: Path
) -> None:
    r = films[0].reference
    tokens = {SYNC: np.ones((17, 64), np.float32)}
    FeatureStore(tmp_path).write(
        encoders(weights).identity("synchformer"), {stretch_id(sha256_of(r.uri), 0, 6): tokens}
    )
    scores = SynchformerScorer(weights, store=tmp_path).score(sounds[:1], RATE, [r])
    assert "no 8 per segment" in scores.missing[0, 2]


def test_clips_that_cannot_be_seen_are_missing_and_the_others_are_not(
    scorer: SynchformerScorer, films: list[Film], sounds: np.ndarray, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    asked = references([films[0]] * 4)
    asked[1:] = [replace(r, uri=uri) for r, uri in zip(asked[1:], ("", str(broken), "/none.mp4"), strict=True)]
    scores = scorer.score(sounds[[0, 0, 0, 0]], RATE, asked, detail=True)
    assert np.isfinite(scores.values[0]).all()
    assert set(scores.missing) == {(g, n) for g in (1, 2, 3) for n in range(3)}
    reasons = [scores.missing[g, 0] for g in (1, 2, 3)]
    assert [
        word in reason for word, reason in zip(("no video file", "broken.mp4", "no such file"), reasons, strict=True)
    ]
    assert scores.measured is not None
    assert scores.measured[3][1]["basis"] == scores.missing[3, 1]


def test_silence_scores_nothing_and_nan_is_no_sound(
    scorer: SynchformerScorer, films: list[Film], sounds: np.ndarray
) -> None:
    hostile = sounds[:1].repeat(2, 1)
    hostile[0, 0] = 0
    hostile[0, 1] = 1e-4 * hostile[0, 1]
    hostile[0, 2, 1] = -hostile[0, 2, 0]  # nothing is left in the mix of both channels
    hostile[0, 3, 0, 7] = np.nan
    hostile[0, 4, 1, 9] = np.inf
    scores = scorer.score(hostile, RATE, references(films[:1]), detail=True)
    assert scores.values[0, :3].tolist() == [0, 0, 0]
    assert set(scores.missing) == {(0, 3), (0, 4)}
    assert scores.values[0, 5] > 0.1
    assert scores.measured is not None
    assert scores.measured[0][2]["basis"] == "nothing is heard"


def test_a_clip_of_silences_is_not_even_looked_at(weights: Path, films: list[Film], looks: list[int]) -> None:
    scores = SynchformerScorer(weights).score(np.zeros((1, 2, 2, 6 * RATE), np.float32), RATE, references(films[:1]))
    assert scores.values.tolist() == [[0, 0]]
    assert not looks


def test_short_clips_are_repeated_and_shorter_ones_gated(
    scorer: SynchformerScorer, weights: Path, films: list[Film], sounds: np.ndarray
) -> None:
    asked = references(films, seconds=3.0)
    asked[1] = replace(asked[1], seconds=2.5)
    scores = scorer.score(sounds, RATE, asked, detail=True)
    # 75 frames hold 8 segments.
    logits = by_hand(weights, films[0], sounds[0, 0], [*range(8), *range(6)])
    assert scores.values[0, 0] == pytest.approx(temporal.reward(logits, logits), abs=1e-5)
    assert scores.measured is not None
    assert scores.measured[0][0]["basis"] == "the picture's 2.88 s, repeated to fill one window"
    assert set(scores.gated) == {1}
    assert "2.50 s" in scores.gated[1]
    assert not scores.missing
    assert np.isnan(scores.values[1]).all()
    # A sound that is short counts as well as a picture; at 0.64 s there is one segment.
    assert set(scorer.score(sounds[..., :RATE], RATE, references(films)).gated) == {0, 1}
    one = SynchformerScorer(weights, shortest_s=0.1).score(sounds[:1, :1, :, :10_240], RATE, references(films[:1]))
    logits = by_hand(weights, films[0], sounds[0, 0], [0] * 14)
    assert one.values[0, 0] == pytest.approx(temporal.reward(logits, logits), abs=1e-5)


def test_another_sample_rate_is_the_same_sound(scorer: SynchformerScorer, films: list[Film]) -> None:
    times = np.arange(6 * 48_000) / 48_000
    tones = 0.3 * np.sin(2 * np.pi * 500 * times) * (np.sin(2 * np.pi * times) > 0)
    high = np.tile(tones.astype(np.float32), (1, 1, 2, 1))
    asked = references(films[:1])
    assert scorer.score(high, 48_000, asked).values == pytest.approx(
        scorer.score(high[..., ::3], 16_000, asked).values, abs=2e-3
    )


def test_the_released_reward_ends_at_4_88_s(weights: Path, films: list[Film], sounds: np.ndarray) -> None:
    scorer = SynchformerScorer(weights, official=True)
    scores = scorer.score(sounds, RATE, references(films), detail=True)
    steps = scores.values / 0.05
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    assert scores.values.max() <= 0.5
    hacked = sounds.copy()
    hacked[..., round(4.88 * RATE) :] = np.random.default_rng(0).normal(0, 0.3, hacked[..., round(4.88 * RATE) :].shape)
    hacked[..., : round(0.08 * RATE)] = 0.5
    again = scorer.score(hacked, RATE, references(films), detail=True)
    assert scores.measured is not None
    assert again.measured is not None
    offsets = [m[1][2]["signed_offset_s"] for m in (scores.measured, again.measured)]
    assert offsets[0] == pytest.approx(offsets[1], abs=1e-3)
    assert scores.measured[0][0]["basis"] == "the picture from 0.08 s to 4.88 s, as in the released reward"
    # What is not released counts to the end.
    whole = SynchformerScorer(weights, max_onsets_per_s=0, prominence_db=0)
    late = [whole.score(s, RATE, references(films)).values for s in (sounds, hacked)]
    assert np.abs(late[0] - late[1]).max() > 0.01


def test_the_released_reward_needs_five_seconds_and_its_own_tokens(
    weights: Path, films: list[Film], sounds: np.ndarray, looks: list[int], tmp_path: Path
) -> None:
    extracting, r = encoders(weights), films[0].reference
    tokens = {SYNC: extracting.sync(r.uri, 0, 6)}
    FeatureStore(tmp_path).write(extracting.identity("synchformer"), {stretch_id(sha256_of(r.uri), 0, 6): tokens})
    looks.clear()
    scorer = SynchformerScorer(weights, official=True, store=tmp_path)
    assert set(scorer.score(sounds[..., : round(4.9 * RATE)], RATE, references(films)).gated) == {0, 1}
    scorer.score(sounds[:1], RATE, [r])
    assert looks == [120]


def test_options_that_mean_nothing_are_refused(weights: Path, tmp_path: Path) -> None:
    def built(**options: Any) -> Any:
        return build_scorer("temporal", ScorerConfig(scorer="synchformer", options=options))

    for options in ({"precision": "int8"}, {"batch": 0}, {"cache_mb": -1}, {"window": 3}):
        with pytest.raises(RewardConfigError):
            built(**options)
    with pytest.raises(RewardError, match="needs its option weights"):
        built().load()
    with pytest.raises(CheckpointError, match="No Synchformer file"):
        built(weights=str(tmp_path / "none.pth")).load()
    if not torch.cuda.is_available():
        with pytest.raises(RewardError, match="sees no GPU"):
            built(weights=str(weights), device="cuda").load()
    tensors = small_synchformer().state_dict()
    torch.save({name: t[:20] if "off_head" in name else t for name, t in tensors.items()}, tmp_path / "twenty.pth")
    with pytest.raises(RewardError, match="20 offsets apart; expected 21"):
        built(weights=str(tmp_path / "twenty.pth")).load()
    torch.save({name: t for name, t in tensors.items() if "MOD_tok" not in name}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing \(1\): transformer\.MOD_tok"):
        built(weights=str(tmp_path / "part.pth")).load()


def test_it_is_carried_without_what_it_loaded(scorer: SynchformerScorer) -> None:
    scorer.load()
    carried = pickle.loads(pickle.dumps(scorer))
    assert carried == scorer
    assert "model" not in carried.__dict__


def test_half_precision_is_close(weights: Path, films: list[Film], sounds: np.ndarray) -> None:
    whole, half = (
        SynchformerScorer(weights, precision=p).score(sounds, RATE, references(films)).values
        for p in ("float32", "bfloat16")
    )
    assert 0 < np.abs(whole - half).max() < 0.01


def test_a_replica_of_a_forged_release_warms_up_and_scores(
    release: Path, films: list[Film], sounds: np.ndarray
) -> None:
    config = ScorerConfig(scorer="synchformer", options={"weights": str(release)})
    actor = RewardActor("temporal", config.model_dump_json())
    scores = actor.score(sounds[:1, :2], RATE, references(films[:1], seconds=3.0))
    assert ((scores.values > 0) & (scores.values < 1)).all()


@pytest.mark.slow
def test_the_released_size_scores_in_a_replica(
    ray_session: str, tmp_path: Path, films: list[Film], sounds: np.ndarray
) -> None:
    model = synchformer(768, 12)
    assert sum(t.numel() for t in model.state_dict().values()) == pytest.approx(237.5e6, rel=1e-3)
    torch.save(model.state_dict(), tmp_path / FILE)
    del model
    options = {"weights": str(tmp_path), "shortest_s": 0.9, "visual_segments": 1}
    config = RewardConfig.model_validate(
        {"scorers": {"temporal": {"scorer": "synchformer", "options": options, "num_cpus": 0.01}}, "start_s": 300}
    )
    config = config.model_copy(update={"scorers": {"temporal": config.scorers["temporal"]}})
    deployment = launch(config, f"rewards-{uuid.uuid4().hex}")
    try:
        deployment.await_ready()
        (replica,) = deployment.replicas["temporal"]
        asked = references(films[:1], seconds=1.0)  # two segments of picture
        for _ in range(2):
            scores: Any = ray.get(replica.score.remote(sounds[:1, :2, :, :RATE], RATE, asked, True), timeout=600)
            assert not scores.missing
            assert ((scores.values > 0) & (scores.values <= 1)).all()
            assert "repeated to fill" in scores.measured[0][0]["basis"]
    finally:
        deployment.stop()
