"""From encoder features to the tokens and streams the DiT consumes (PrismAudio models/conditioners.py)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.conditions import Conditions
from foundation.config import ModelConfig


def resample_time(tokens: Tensor, length: int) -> Tensor:
    """Linear interpolation of (B, T, C) to (B, length, C)."""
    if tokens.shape[1] == length:
        return tokens
    return F.interpolate(tokens.transpose(1, 2), size=length, mode="linear").transpose(1, 2)


class EmbeddingMLP(nn.Sequential):
    """Bias-free dim -> width -> width with SiLU; zero in, zero out, so that a zero condition stays a null one."""

    def __init__(self, dim: int, width: int):
        super().__init__(nn.Linear(dim, width, bias=False), nn.SiLU(), nn.Linear(width, width, bias=False))
        self.dim, self.width = dim, width

    @torch.no_grad()
    def draw_unit_gain(self, generator: torch.Generator | None = None) -> None:
        """Draw both layers from N(0, 1 / fan_in), the second times 1.68 = 1 / RMS of SiLU on a unit normal."""
        shapes = (self.width, self.dim), (self.width, self.width)
        for parameter, shape, gain in zip(self.parameters(), shapes, (1.0, 1.68), strict=True):
            parameter.copy_(torch.randn(shape, generator=generator) * gain / math.sqrt(shape[1]))


class FeatureConditioner(nn.Module):
    """Bias-free MLP from (B, T, dim) to (B, T, width)."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        # Never used in a forward pass, but released state dicts carry it wherever the dimensions differ.
        if dim != width:
            self.proj_out = nn.Linear(dim, width)
        self.embedder = EmbeddingMLP(dim, width)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, dim) to (B, T, width)."""
        return self.embedder(features)


class SyncConditioner(FeatureConditioner):
    """Sync features with a learned position inside each segment, brought to the latent rate."""

    def __init__(self, dim: int, width: int, segment: int):
        super().__init__(dim, width)
        self.sync_pos_emb = nn.Parameter(torch.zeros(1, 1, segment, dim))

    def forward(self, features: Tensor, length: int | None = None) -> Tensor:
        """(B, T, dim) to (B, length, width); a last segment may be cut short."""
        tokens, segment = features.shape[1], self.sync_pos_emb.shape[2]
        positions = self.sync_pos_emb[0, 0].repeat(-(-tokens // segment), 1)[:tokens]
        embedded = self.embedder(features + positions)
        return embedded if length is None else resample_time(embedded, length)


class MultiConditioner(nn.Module):
    """The three conditioners under the names of the released state dict."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.conditioners = nn.ModuleDict(
            {
                "video_features": FeatureConditioner(config.video_dim, config.width),
                "text_features": FeatureConditioner(config.text_dim, config.width),
                "sync_features": SyncConditioner(config.sync_dim, config.width, config.sync_segment),
            }
        )

    def forward(self, features: Conditions, length: int) -> Conditions:
        """Encoder features to (B, T, width) each; sync at `length` latent frames."""
        parts = self.conditioners
        return Conditions(
            video=parts["video_features"](features.video),
            text=parts["text_features"](features.text),
            sync=parts["sync_features"](features.sync, length),
        )
