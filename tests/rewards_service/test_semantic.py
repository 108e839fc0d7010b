"""The contrastive encoder and the semantic reward built on it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rewards_service.contrastive import ContrastiveEncoder, fit, words_of
from rewards_service.errors import RewardError
from rewards_service.scores import Reference
from rewards_service.semantic import SemanticScorer
from tests.rewards_service.conftest import RATE, World


@pytest.fixture(scope="module")
def scorer(encoder: ContrastiveEncoder, tmp_path_factory: pytest.TempPathFactory) -> SemanticScorer:
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    encoder.save(path)
    return SemanticScorer(path)


def told(world: World, text: str) -> list[Reference]:
    return [Reference(r.clip_id, text, r.seconds, r.events, r.positions, r.position_fps) for r in world.references]


def test_the_right_text_wins(scorer: SemanticScorer, world: World) -> None:
    right = scorer.score(world.sounds, RATE, world.references).values[:, 0]
    best = [scorer.score(world.sounds, RATE, told(world, text)).values[:, 0] for text in scorer.encoder.texts]
    chosen = np.array(scorer.encoder.texts)[np.argmax(best, axis=0)]
    nouns = [words_of(text)[-2] for text in chosen]
    same = [scene.material.words for scene in world.scenes]
    assert np.mean([any(noun == w[1] for w in words) for noun, words in zip(nouns, same, strict=True)]) > 0.85
    assert right.mean() > 0.55


def test_wrong_class_and_noise_score_lower(scorer: SemanticScorer, world: World) -> None:
    order = np.argsort(world.labels, kind="stable")
    other = np.roll(order, len(order) // 2)
    sounds = np.empty_like(world.sounds)
    sounds[order] = world.sounds[other]
    differs = np.array(world.labels)[order] != np.array(world.labels)[other]
    clean = scorer.score(world.sounds, RATE, world.references).values
    wrong = scorer.score(sounds, RATE, world.references).values
    noise = np.random.default_rng(0).normal(0, 0.05, sounds.shape).astype(np.float32)
    assert clean.mean() > wrong[order[differs]].mean() + 0.3
    assert clean.mean() > scorer.score(noise, RATE, world.references).values.mean() + 0.4


def test_level_does_not_matter(scorer: SemanticScorer, world: World) -> None:
    quiet = scorer.score(0.05 * world.sounds, RATE, world.references).values
    np.testing.assert_allclose(quiet, scorer.score(world.sounds, RATE, world.references).values, atol=1e-4)


def test_a_text_without_known_words_asks_only_for_some_known_sound(scorer: SemanticScorer, world: World) -> None:
    scores = scorer.score(world.sounds, RATE, told(world, "An object of unheard stuff."), detail=True)
    assert scores.values.mean() > 0.6
    assert not scores.missing
    assert scores.measured is not None
    details = scores.measured[0][0]
    assert details["basis"].startswith("no known word")
    assert details["unknown_words"] == ["an", "object", "of", "unheard", "stuff"]


def test_details_name_the_closest_texts(scorer: SemanticScorer, world: World) -> None:
    scores = scorer.score(world.sounds[:1], RATE, world.references[:1], detail=True)
    assert scores.measured is not None
    details = scores.measured[0][0]
    assert details["similarity"] == pytest.approx(scores.values.item(), abs=1e-4)
    closest = [entry["similarity"] for entry in details["closest"]]
    assert len(closest) == 3
    assert closest == sorted(closest, reverse=True)


def test_words_in_nearly_every_text_tell_nothing(encoder: ContrastiveEncoder) -> None:
    assert encoder.known("A glass marble bouncing.") == ["glass", "marble"]
    assert encoder.unknown("A glass zebra bouncing.") == ["zebra"]
    torch.testing.assert_close(encoder.embed_text(["glass marble"]), encoder.embed_text(["Marble; a GLASS bouncing"]))


def test_saving_and_loading_changes_nothing(encoder: ContrastiveEncoder, world: World, tmp_path: Path) -> None:
    encoder.save(tmp_path / "e.safetensors")
    again = ContrastiveEncoder.load(tmp_path / "e.safetensors")
    sounds = torch.from_numpy(world.sounds[:, 0])
    torch.testing.assert_close(again.embed_audio(sounds, RATE), encoder.embed_audio(sounds, RATE), rtol=0, atol=0)
    assert again.texts == encoder.texts
    assert (tmp_path / "e.safetensors").stat().st_size < 300_000


def test_training_is_a_function_of_the_seed(school: World) -> None:
    texts = [scene.caption for scene in school.scenes[:16]]

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.initial_seed() + 1)  # the global state must not matter
        model = fit(school.sounds[:16, 0], texts, sample_rate=RATE, seed=seed, steps=2, batch=8)
        return model.towers.words.weight

    torch.testing.assert_close(weights(1), weights(1), rtol=0, atol=0)
    assert not torch.equal(weights(1), weights(2))


def test_missing_weights_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"nowhere\.safetensors.*prism pretrain"):
        SemanticScorer(tmp_path / "nowhere.safetensors").score(
            np.zeros((1, 1, 2, RATE), np.float32), RATE, [Reference("c", "", 1.0, (), (), 1.0)]
        )
