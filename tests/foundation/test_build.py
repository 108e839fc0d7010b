"""Words, encoders and the bundle that a checkpoint file restores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foundation import checkpoint
from foundation.build import Foundation, load_foundation
from foundation.config import ModelConfig
from foundation.embedded import EmbeddedEncoder, picture
from foundation.encoders import EncoderConfig, Encoders
from foundation.errors import CheckpointError
from foundation.generate import sample_waveforms
from foundation.model import FlowModel
from foundation.vocabulary import Vocabulary, words
from foundation.vocoder import Vocoder
from media.clip import Clip

PLANS = [
    ("A glass marble.", "Two impacts at 0.4 s.", "Clean.", "Left."),
    ("A rubber ball.", "One.", "Clean.", "Right."),
]


def encoder(of: Foundation) -> EmbeddedEncoder:
    assert isinstance(of.encoder, EmbeddedEncoder)
    return of.encoder


@pytest.fixture
def foundation() -> Foundation:
    torch.manual_seed(0)
    vocabulary = Vocabulary.learn(PLANS * 5)
    encoders = Encoders(EncoderConfig(), len(vocabulary))
    return Foundation(
        FlowModel(ModelConfig()).eval(), EmbeddedEncoder(encoders.eval(), vocabulary), Vocoder(), 2.0, {"made": "here"}
    )


def test_words_keep_decimals_and_drop_case() -> None:
    assert words("Two impacts, at 0.4 s!") == ["two", "impacts", "at", "0.4", "s"]


def test_vocabulary_leaves_out_rare_and_universal_words() -> None:
    vocabulary = Vocabulary.learn([*PLANS * 5, ("odd", "", "", "")])
    assert "odd" not in vocabulary.known
    assert {"glass", "left", "0.4"} <= set(vocabulary.known)
    universal = Vocabulary.learn(PLANS * 5)
    assert "clean" in universal.common
    assert "clean" not in universal.known


def test_tokens_are_per_section_and_padded() -> None:
    vocabulary = Vocabulary(("glass", "left", "marble"), per_section=2)
    assert vocabulary.tokens(["A glass marble, glass.", "nothing", "left"]) == [1, 3, 0, 0, 2, 0]


def test_unknown_words_are_named_once() -> None:
    vocabulary = Vocabulary(("glass",), common=("bouncing",))
    assert vocabulary.unknown("A glass dragon bouncing, a dragon!") == ["dragon"]


@pytest.mark.parametrize("length", [1, 8, 32, 40])
def test_encoders_give_the_three_tensors_for_any_length(foundation: Foundation, length: int) -> None:
    pictures = np.zeros((2, length, 32, 32), np.uint8)
    out = encoder(foundation)(pictures, PLANS)
    assert out.text.shape == (2, 16, 64)
    assert out.sync.shape == (2, 2 * length, 64)
    assert out.video.shape[0] == 2
    assert out.video.shape[2] == 64


def test_picture_keeps_left_left() -> None:
    frames = np.zeros((1, 48, 96, 3), np.uint8)
    frames[:, :, :48] = 255
    small = picture(Clip("x", frames, 16.0))
    assert small.shape == (1, 32, 32)
    assert small[0, :, :15].min() > 250
    assert small[0, :, 17:].max() < 5


def test_save_and_load_give_the_same_sound(foundation: Foundation, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 32), np.uint8)
    path = tmp_path / "model.safetensors"
    foundation.save(path)
    again = load_foundation(path)
    assert encoder(again).vocabulary == encoder(foundation).vocabulary
    assert again.extra["made"] == "here"
    made = [sample_waveforms(f, encoder(f)(pictures, PLANS[:1]), 64, [(1, 0)], steps=2) for f in (foundation, again)]
    assert made[0].shape == (1, 2, 32_000)
    assert torch.equal(made[0], made[1])


def test_sampling_depends_on_the_seed_and_not_on_the_batch(foundation: Foundation) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 32), np.uint8)
    features = encoder(foundation)(pictures, [PLANS[0]] * 3)
    together = sample_waveforms(foundation, features, 64, [(1, 0), (1, 1), (1, 2)], steps=2)
    alone = sample_waveforms(foundation, features[slice(1, 2)], 64, [(1, 1)], steps=2)
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    other = sample_waveforms(foundation, features[slice(1, 2)], 64, [(2, 1)], steps=2)
    assert not torch.allclose(alone, other, atol=1e-3)


def test_a_flow_model_without_encoders_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    checkpoint.save(path, FlowModel(ModelConfig()))
    with pytest.raises(CheckpointError, match="encoders and words"):
        load_foundation(path)


def test_a_model_for_another_codec_is_refused(foundation: Foundation, tmp_path: Path) -> None:
    other = Foundation(FlowModel(ModelConfig(latent_channels=8)), foundation.encoder, foundation.codec, 2.0, {})
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="8 channels"):
        load_foundation(tmp_path / "other.safetensors")
