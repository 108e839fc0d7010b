"""How long everything is for a clip of so many seconds, against the original's rules."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.build import Foundation
from foundation.config import ModelConfig
from foundation.model import FlowModel
from foundation.oobleck import Oobleck
from foundation.prismaudio import PrismAudio
from foundation.release import Release
from foundation.released_encoders import ReleasedEncoders
from foundation.synchformer import FPS, SynchformerVisual
from media.frames import frame_count
from tests.foundation.conftest import FIXTURES

RULES: dict[str, list[dict[str, Any]]] = json.loads((FIXTURES / "lengths.json").read_text())


@pytest.fixture(scope="module")
def tiny() -> PrismAudio:
    config = ModelConfig(latent_channels=4, width=32, depth=1, heads=1, video_dim=4, text_dim=4, sync_dim=4)
    return PrismAudio(FlowModel(config))


def sync_length(model: PrismAudio, tokens: int) -> int:
    zeros = torch.zeros(1, tokens, 4)
    return model.conditions(zeros, zeros, zeros).sync.shape[1]


@pytest.mark.parametrize("rule", RULES["sync_length_rule"], ids=lambda rule: str(rule["sync_tokens"]))
def test_the_sync_conditioner_has_the_released_length(tiny: PrismAudio, rule: dict[str, int]) -> None:
    assert sync_length(tiny, rule["sync_tokens"]) == rule["conditioner_length"]


@pytest.mark.parametrize("rule", RULES["latent_length_rule"], ids=lambda rule: f"{rule['seconds']} s")
def test_a_clip_is_as_long_as_the_original_makes_it(tiny: PrismAudio, rule: dict[str, int]) -> None:
    seconds = rule["seconds"]
    with torch.device("meta"):
        codec, visual = Oobleck(), SynchformerVisual(depth=1)
    encoders = ReleasedEncoders(Release(Path(), Path()))
    foundation = Foundation(tiny.flow, encoders, codec, 9.0, {})
    assert foundation.frames(seconds) == rule["latent_frames"]
    assert frame_count(FPS, seconds) == rule["video_frames_25fps"]
    assert frame_count(4, seconds) == rule["video_features_4fps"]
    assert 8 * visual.segments(rule["video_frames_25fps"]) == rule["sync_tokens"]
    assert sync_length(tiny, rule["sync_tokens"]) == rule["sync_interpolated"]
    # Where the original's two lengths differ it fails; here the velocity has the latent's length either way.
    zeros = torch.zeros(1, rule["sync_tokens"], 4)
    x = torch.randn(1, 4, rule["latent_frames"])
    assert tiny.velocity(x, 0.5, tiny.conditions(zeros, zeros, zeros)).shape == x.shape
