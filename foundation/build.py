"""From a checkpoint file to everything that turns a clip and a plan into sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import ValidationError

from foundation import checkpoint
from foundation.codec import Codec
from foundation.conditions import Conditions
from foundation.encoders import PICTURE_SIZE, EncoderConfig, Encoders
from foundation.errors import CheckpointError
from foundation.model import FlowModel
from foundation.vocabulary import Vocabulary
from foundation.vocoder import Vocoder
from media.clip import Clip

ENCODERS = "encoders."


@dataclass(frozen=True)
class Foundation:
    """A flow model with its encoders, words and codec. `extra` is the checkpoint's provenance."""

    flow: FlowModel
    encoders: Encoders
    vocabulary: Vocabulary
    codec: Codec
    seconds: float
    extra: dict[str, Any]

    @property
    def fps(self) -> float:
        """Frames per second at which `picture` expects clips."""
        return self.encoders.config.fps

    def frames(self, seconds: float) -> int:
        """Latent frames of a clip of this length."""
        return max(1, round(seconds * self.codec.sample_rate / self.codec.hop))

    @torch.inference_mode()
    def features(self, pictures: np.ndarray, plans: Sequence[Sequence[str]]) -> Conditions:
        """Condition tensors of B clips: pictures (B, T, 32, 32) uint8 from `picture`, four plan texts each."""
        tokens = torch.tensor([self.vocabulary.tokens(sections) for sections in plans])
        return self.encoders(torch.from_numpy(pictures).float() / 255, tokens)

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write everything into one safetensors file. Raises CheckpointError."""
        described = {
            **(extra or self.extra),
            "encoders": self.encoders.config.model_dump(),
            "vocabulary": list(self.vocabulary.known),
            "common_words": list(self.vocabulary.common),
            "seconds": self.seconds,
        }
        others = {ENCODERS + name: tensor for name, tensor in self.encoders.state_dict().items()}
        checkpoint.save(path, self.flow, described, others)


def picture(clip: Clip) -> np.ndarray:
    """What the encoders see of a clip: (T, 32, 32) uint8 grey, stretched to a square so that left stays left."""
    side = (PICTURE_SIZE, PICTURE_SIZE)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
    return np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in grey])


def load_foundation(path: str | Path) -> Foundation:
    """Read a checkpoint written by `Foundation.save`, on the CPU and in evaluation mode.

    Raises CheckpointError as `foundation.checkpoint.load`, and when the encoders or words are not in the file.
    """
    loaded = checkpoint.load(path)
    try:
        config = EncoderConfig(**loaded.extra["encoders"])
        common = tuple(loaded.extra.get("common_words", ()))
        vocabulary = Vocabulary(tuple(loaded.extra["vocabulary"]), config.per_section, common)
        seconds = float(loaded.extra["seconds"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise CheckpointError(
            f"{path} holds a flow model but not the encoders and words of the embedded model ({error}); use a file "
            "written by `prism pretrain` or `prism train`."
        ) from error
    encoders = Encoders(config, len(vocabulary))
    tensors = {name.removeprefix(ENCODERS): tensor for name, tensor in loaded.others.items()}
    checkpoint.load_state(encoders, tensors, source=str(path))
    codec = Vocoder()
    if codec.channels != loaded.model.config.latent_channels:
        raise CheckpointError(
            f"{path} makes latents of {loaded.model.config.latent_channels} channels, but the vocoder has "
            f"{codec.channels}; a model for another codec needs that codec's recipe."
        )
    return Foundation(loaded.model, encoders.eval(), vocabulary, codec, seconds, loaded.extra)
