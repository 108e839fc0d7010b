"""The visual tower of Synchformer: a vision transformer with attention divided over space and time.

Sources: v-iashin/Synchformer model/modules/feat_extractors/visual/motionformer.py; Patrick et al. 2021
(arXiv:2106.05392) with the divided attention of TimeSformer (arXiv:2102.05095).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class Aggregator(nn.TransformerEncoderLayer):
    """One pre-norm encoder layer with a learned token in front, whose output stands for the whole sequence."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__(
            width, heads, hidden, dropout=0.0, activation=F.gelu, layer_norm_eps=EPS, batch_first=True, norm_first=True
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, N, width) to (B, width)."""
        return super().forward(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))[:, 0]


class Projection(nn.Module):
    """A convolution under the name that the released files use."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.proj = conv

    def forward(self, x: Tensor) -> Tensor:
        """What the convolution gives."""
        return self.proj(x)


class DividedAttention(nn.Module):
    """The first token attends to all; the others to it and to those that share their frame, or their place."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, frames: int, over_time: bool) -> Tensor:
        """(B, 1 + frames * places, width), frame-major, to the same shape. over_time: among equal places."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, tokens, C)
        first = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        keys, values = (self._grouped(t, frames, over_time, keep_first=True) for t in (k, v))
        queries = self._grouped(q, frames, over_time, keep_first=False)
        rest = F.scaled_dot_product_attention(queries, keys, values)  # (B, groups, heads, members, C)
        rest = rest.permute(0, 3, 1, 2, 4) if over_time else rest.permute(0, 1, 3, 2, 4)
        return self.proj(
            torch.cat([first.transpose(1, 2).reshape(batch, 1, width), rest.reshape(batch, tokens - 1, width)], dim=1)
        )

    @staticmethod
    def _grouped(x: Tensor, frames: int, over_time: bool, keep_first: bool) -> Tensor:
        """(B, heads, 1 + N, C) to (B, groups, heads, members (+ 1 for the first token), C)."""
        members = x[:, :, 1:].unflatten(2, (frames, -1))
        members = members.permute(0, 3, 1, 2, 4) if over_time else members.permute(0, 2, 1, 3, 4)
        if not keep_first:
            return members
        first = x[:, None, :, :1].expand(-1, members.shape[1], -1, -1, -1)
        return torch.cat([first, members], dim=3)


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention over time, over space, then the MLP, each pre-norm and residual."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attn = DividedAttention(width, heads)
        self.timeattn = DividedAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = MLP(width, hidden)
        self.norm3 = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B, 1 + frames * places, width) to the same shape."""
        x = x + self.timeattn(self.norm3(x), frames, over_time=True)
        x = x + self.attn(self.norm1(x), frames, over_time=False)
        return x + self.mlp(self.norm2(x))


class MotionFormer(nn.Module):
    """Short videos to one vector per time step; parameter names are the released ones without `vfeat_extractor.`.

    width, depth, heads, hidden: of the blocks; the aggregator has the same. places: patches per frame, a square number.
    times: time steps. patch: pixels per side. tubelet: frames per time step.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        places: int = 196,
        times: int = 8,
        patch: int = 16,
        tubelet: int = 2,
    ):
        super().__init__()
        self.width, self.heads, self.times = width, heads, times
        self.frames, self.size = times * tubelet, round(places**0.5) * patch
        hidden = hidden or 4 * width
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + places, width) * 0.02)
        self.temp_embed = nn.Parameter(torch.zeros(1, times, width))
        # Left over from the image model it began as: never used, but in every released file.
        self.patch_embed = Projection(nn.Conv2d(3, width, patch, patch))
        self.patch_embed_3d = Projection(nn.Conv3d(3, width, (tubelet, patch, patch), (tubelet, patch, patch)))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        self.spatial_attn_agg = Aggregator(width, heads, hidden)

    def forward(self, segments: Tensor) -> Tensor:
        """(..., frames, 3, size, size) in [-1, 1] to (..., times, width)."""
        lead = segments.shape[:-4]
        x = self.patch_embed_3d(segments.flatten(0, -5).transpose(1, 2)).flatten(3)  # (B, width, times, places)
        x = x.permute(0, 2, 3, 1) + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x.flatten(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x, self.times)
        x = self.norm(x)[:, 1:].unflatten(1, (self.times, -1))
        return self.spatial_attn_agg(x.flatten(0, 1)).view(*lead, self.times, self.width)
