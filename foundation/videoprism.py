"""VideoPrism's video-text model LvT: one vector per frame and one per clip.

Sources: google-deepmind/videoprism (Zhao et al. 2024, arXiv:2402.13217) as transformers has it; how PrismAudio uses it:
FunAudioLLM/ThinkSound, branch prismaudio, data_utils/v2a_utils/feature_utils_288.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.models.videoprism.modeling_videoprism import VideoPrismVideoModel

from foundation.pretrained import load_part, read_config

FPS = 4
ATTENTION = "capped_in_pieces"
LOGITS = 2**25
"""Attention logits in memory at once; the auxiliary layers have 16 x 9216 x 9216 of them for 9 s."""


@dataclass(frozen=True)
class VideoFeatures:
    """frames: (T, width), rows of length 1. clip: (width,), of length 1. Both float32 on the CPU."""

    frames: Tensor
    clip: Tensor


class VideoPrism:
    """The video tower; the text tower in the same folder is not loaded.

    dtype: of the matrix products. The weights stay in float32: torch interpolates positions in nothing else.
    """

    def __init__(self, model: VideoPrismVideoModel, dtype: torch.dtype = torch.float32):
        self.model, self.dtype = model, dtype
        self.config = model.config

    @classmethod
    def load(
        cls, folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "VideoPrism":
        """A saved VideoPrismClipModel (or its video tower alone) in Hugging Face layout. Raises CheckpointError."""
        config = read_config(folder, ("videoprism", "videoprism_vision_model"))
        model = load_part(
            VideoPrismVideoModel,
            folder,
            getattr(config, "vision_config", config),
            ignored=("text_model.",),
            attn_implementation=ATTENTION,
            key_mapping={r"^video_model\.": ""},
        )
        return cls(model.to(device), dtype)  # pyright: ignore[reportArgumentType]

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.config.hidden_size

    @property
    def size(self) -> int:
        """Height and width of the frames it wants, in pixels."""
        size = self.config.image_size
        return size if isinstance(size, int) else size[0]

    @torch.inference_mode()
    def features(self, frames: np.ndarray) -> VideoFeatures:
        """Frames (T, size, size, 3) uint8 at 4 fps to their features.

        All frames see each other. For other counts than the model was trained with (8) its temporal positions are
        interpolated. A frame's vector is the pooling head on that frame's tokens, as the clip's is on all.
        """
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2).float() / 255
        count = len(frames)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(pixels[None], interpolate_pos_encoding=count != self.config.num_frames)
            tokens = output.last_hidden_state.reshape(count, -1, self.width)
            pooled = self.model.head_layernorm(self.model.head(tokens)[0])[:, 0]
        return VideoFeatures(self._unit(pooled).cpu(), self._unit(output.pooler_output[0, 0]).cpu())

    def _unit(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=-1) if self.config.apply_l2norm else x.float()


def capped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention with logits capped by tanh, a few queries at a time so that long clips fit; inference only.

    query, key, value: (B, heads, N, C). Returns (B, N, heads, C) and no weights.
    """
    if attention_mask is not None:
        raise NotImplementedError("The video tower attends without masks.")
    batch, heads, length, _channels = query.shape
    step = max(1, LOGITS // (batch * heads * key.shape[2]))
    keys = key.transpose(2, 3)
    pieces = []
    for first in range(0, length, step):
        logits = (query[:, :, first : first + step] * scaling) @ keys
        if softcap is not None:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        pieces.append(logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value)
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, capped_attention)
