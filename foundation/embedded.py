"""What the embedded model sees and reads: small encoders over 32 x 32 pictures and known words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from foundation import checkpoint
from foundation.conditions import Conditions
from foundation.encoders import PICTURE_SIZE, EncoderConfig, Encoders
from foundation.errors import CheckpointError
from foundation.vocabulary import Vocabulary
from media.clip import Clip

PREFIX = "encoders."


@dataclass(frozen=True)
class EmbeddedEncoder:
    """The encoders of the embedded model with the words they know."""

    encoders: Encoders
    vocabulary: Vocabulary

    @property
    def fps(self) -> float:
        """Frames per second at which `picture` expects clips."""
        return self.encoders.config.fps

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray, plans: Sequence[Sequence[str]]) -> Conditions:
        """Condition tensors of B clips: pictures (B, T, 32, 32) uint8 from `picture`, four plan texts each."""
        device = self.encoders.text.weight.device
        tokens = torch.tensor([self.vocabulary.tokens(sections) for sections in plans], device=device)
        return self.encoders(torch.from_numpy(pictures).to(device).float() / 255, tokens)

    def described(self) -> dict[str, Any]:
        """What `restored` needs beside the tensors, as plain JSON."""
        return {
            "encoders": self.encoders.config.model_dump(),
            "vocabulary": list(self.vocabulary.known),
            "common_words": list(self.vocabulary.common),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The encoders' weights under the names they have in a checkpoint."""
        return {PREFIX + name: tensor for name, tensor in self.encoders.state_dict().items()}

    @classmethod
    def restored(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> "EmbeddedEncoder":
        """From what a checkpoint holds. Raises CheckpointError when that is not an embedded model's."""
        try:
            config = EncoderConfig(**described["encoders"])
            common = tuple(described.get("common_words", ()))
            vocabulary = Vocabulary(tuple(described["vocabulary"]), config.per_section, common)
        except (KeyError, TypeError, ValidationError) as error:
            raise CheckpointError(
                f"{source} holds a flow model but not the encoders and words of the embedded model ({error}); use a "
                "file written by `prism pretrain` or `prism train`."
            ) from error
        encoders = Encoders(config, len(vocabulary))
        checkpoint.load_state(encoders, {n.removeprefix(PREFIX): t for n, t in tensors.items()}, source=source)
        return cls(encoders.eval(), vocabulary)


def picture(clip: Clip) -> np.ndarray:
    """What the encoders see of a clip: (T, 32, 32) uint8 grey, stretched to a square so that left stays left."""
    side = (PICTURE_SIZE, PICTURE_SIZE)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
    return np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in grey])
