"""Small encoders that produce the three condition tensors of the embedded model from frames and words."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from foundation.conditions import Conditions
from settings import Section

PICTURE_SIZE = 32


class EncoderConfig(Section):
    """Rates and sizes of the embedded encoders.

    fps: frames per second they read. video_fps: video tokens per second. sync_rate: sync tokens per second.
    """

    fps: float = 16.0
    video_fps: float = 4.0
    sync_rate: float = 32.0
    dim: PositiveInt = 64
    per_section: PositiveInt = 4


def _frame_stack(channels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(24 * (PICTURE_SIZE // 8) ** 2, dim),
    )


class Encoders(nn.Module):
    """Frames (B, T, 32, 32) in [0, 1] and word tokens (B, N) to video, text and sync features."""

    def __init__(self, config: EncoderConfig, vocabulary_size: int):
        super().__init__()
        self.config = config
        self.video = _frame_stack(1, config.dim)
        self.motion = _frame_stack(2, config.dim)
        self.temporal = nn.ModuleList(nn.Conv1d(config.dim, config.dim, 5, padding=2) for _ in range(2))
        self.text = nn.Embedding(vocabulary_size, config.dim)

    def forward(self, frames: Tensor, tokens: Tensor) -> Conditions:
        """Features: video (B, T * video_fps / fps, dim), text (B, N, dim), sync (B, T * sync_rate / fps, dim)."""
        batch, length = frames.shape[:2]
        frames = frames - 0.15
        every = max(1, round(self.config.fps / self.config.video_fps))
        sparse = frames[:, min(every // 2, length - 1) :: every]
        video = self.video(sparse.reshape(-1, 1, *frames.shape[2:])).reshape(batch, sparse.shape[1], -1)
        change = torch.diff(frames, dim=1, prepend=frames[:, :1])
        pair = torch.stack([frames, 2 * change], 2)
        motion = self.motion(pair.reshape(batch * length, 2, *frames.shape[2:])).reshape(batch, length, -1)
        wanted = max(1, round(length * self.config.sync_rate / self.config.fps))
        sync = F.interpolate(motion.transpose(1, 2), size=wanted, mode="linear", align_corners=False)
        for layer in self.temporal:
            sync = sync + F.silu(layer(sync))
        return Conditions(video, self.text(tokens), sync.transpose(1, 2))
