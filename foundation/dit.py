"""The PrismAudio diffusion transformer (models/dit.py, models/transformer.py) at any width and depth.

Parameter and buffer names are those of the released state dict. What depends on the conditions alone is computed once
by `prepare` and reused at every noise level.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundation.attention import CrossAttention, LayerNorm, RotaryEmbedding, SelfAttention
from foundation.conditioners import EmbeddingMLP, resample_time
from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.errors import SamplingError


@dataclass(frozen=True)
class Prepared:
    """Everything the DiT needs of the conditions, independent of the state and the noise level.

    keys, values: per block (B, heads, S, head_dim). stream: (B, L, width), the gated video and sync paths added to the
    input tokens. The null condition has zero keys, values and stream, so guidance stores nothing for it.
    cfg_scale: guidance scale; 1 means none.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    stream: Tensor
    cfg_scale: float = 1.0

    def __len__(self) -> int:
        return self.stream.shape[0]

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample of one call: a guided pair counts two."""
        return 1 if self.cfg_scale == 1.0 else 2

    def __getitem__(self, index: slice | Tensor) -> "Prepared":
        return Prepared(
            tuple(k[index] for k in self.keys),
            tuple(v[index] for v in self.values),
            self.stream[index],
            self.cfg_scale,
        )

    def repeat_interleave(self, times: int) -> "Prepared":
        """Each clip `times` times in a row, clip-major."""
        return self._select(torch.arange(len(self), device=self.stream.device).repeat_interleave(times), times)

    def tile(self, times: int) -> "Prepared":
        """All clips in order, `times` times: item-fastest, as `foundation.sampling` numbers its rows."""
        return self._select(torch.arange(len(self), device=self.stream.device).repeat(times), times)

    def _select(self, rows: Tensor, times: int) -> "Prepared":
        return self if times == 1 else self[rows]


class FourierFeatures(nn.Module):
    """Random cosines and sines of a scalar."""

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features // 2, 1))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, features)."""
        # A product of one column and one row; as a matrix product it would lose its digits under autocast.
        angles = 2 * math.pi * t[:, None] * self.weight.T
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class GatedLinear(nn.Module):
    """SwiGLU input projection: value times SiLU(gate)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., hidden)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.silu(gate)


class FeedForward(nn.Module):
    """SwiGLU feed-forward; the middle entry keeps the released parameter numbering."""

    def __init__(self, width: int, mult: int):
        super().__init__()
        self.ff = nn.Sequential(GatedLinear(width, mult * width), nn.Identity(), nn.Linear(mult * width, width))

    @property
    def output(self) -> nn.Linear:
        """The projection that writes to the residual stream."""
        return cast(nn.Linear, self.ff[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        return self.ff(x)


class Block(nn.Module):
    """Pre-norm self-attention, cross-attention and feed-forward, each added to the residual."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.rotary_dim = config.rotary_dim
        self.pre_norm = LayerNorm(config.width)
        self.self_attn = SelfAttention(config.width, config.heads)
        self.cross_attend_norm = LayerNorm(config.width)
        self.cross_attn = CrossAttention(config.width, config.heads)
        self.ff_norm = LayerNorm(config.width)
        self.ff = FeedForward(config.width, config.ff_mult)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> Tensor:
        """(B or 2B, T, width), of which the first B attend to keys and values (B, heads, S, head_dim)."""
        x = x + self.self_attn(self.pre_norm(x), *rotary, self.rotary_dim)
        conditioned = keys.shape[0]
        if conditioned == x.shape[0]:
            x = x + self.cross_attn(self.cross_attend_norm(x), keys, values)
        else:
            # Attention to a null condition is exactly zero, so the unconditional rows of a guided pair skip it.
            head = x[:conditioned]
            x = torch.cat([head + self.cross_attn(self.cross_attend_norm(head), keys, values), x[conditioned:]])
        return x + self.ff(self.ff_norm(x))


class Transformer(nn.Module):
    """Input and output projections, gates of the two condition streams, and the blocks.

    precision, checkpointing: of the blocks, see `foundation.execution`.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.precision = "fp32"
        self.checkpointing = False
        self.head_dim = config.head_dim
        self.gate = nn.Parameter(torch.ones(1, 1, config.width))
        self.sync_gate = nn.Parameter(torch.zeros(1, 1, config.width))
        self.project_in = nn.Linear(config.latent_channels, config.width, bias=False)
        self.project_out = nn.Linear(config.width, config.latent_channels, bias=False)
        self.rotary_pos_emb = RotaryEmbedding(config.rotary_dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))

    @property
    def blocks(self) -> list[Block]:
        """The layers, typed."""
        return [cast(Block, layer) for layer in self.layers]

    def forward(self, tokens: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """Latent tokens (B, L, C) and time tokens (B or 1, width) to (B, L, C)."""
        x = self.project_in(tokens)
        conditioned = len(prepared)
        if conditioned == x.shape[0]:
            x = x + prepared.stream
        else:
            x = torch.cat([x[:conditioned] + prepared.stream, x[conditioned:]])
        x = torch.cat([time[:, None].expand(x.shape[0], 1, -1), x], dim=1)
        rotary = self.rotary_pos_emb(x.shape[1], self.head_dim)
        recompute = self.checkpointing and torch.is_grad_enabled()
        with self.autocast(x):
            for layer, keys, values in zip(self.blocks, prepared.keys, prepared.values, strict=True):
                if recompute:
                    x = checkpoint(layer, x, rotary, keys, values, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = layer(x, rotary, keys, values)
        return self.project_out(x[:, 1:])

    def autocast(self, x: Tensor) -> AbstractContextManager[object]:
        """What the blocks run in; float32 leaves a surrounding autocast alone."""
        if self.precision != "bf16":
            return nullcontext()
        # Every weight is read once inside: a cache of the narrow ones would only keep them all until the end.
        return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)


class DiffusionTransformer(nn.Module):
    """Velocity of the latents given state, noise level and prepared conditions."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, channels = config.width, config.latent_channels
        # The two learned "empty" features are in released state dicts, but the null condition is zeros.
        self.empty_clip_feat = nn.Parameter(torch.zeros(1, width))
        self.empty_sync_feat = nn.Parameter(torch.zeros(1, width))
        self.timestep_features = FourierFeatures(config.timestep_features)
        self.to_timestep_embed = nn.Sequential(
            nn.Linear(config.timestep_features, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.to_cond_embed = EmbeddingMLP(width, width)
        self.to_add_embed = EmbeddingMLP(width, width)
        self.to_sync_embed = EmbeddingMLP(width, width)
        self.transformer = Transformer(config)
        self.preprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)
        self.postprocess_conv = nn.Conv1d(channels, channels, 1, bias=False)

    def prepare(
        self,
        conditioned: Conditions,
        length: int,
        cfg_scale: float = 1.0,
        drop: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Prepared:
        """Cross-attention keys and values and the additive stream of conditioners' outputs (B, T, width).

        length: latent frames. drop: boolean (B,) masks of the samples whose (cross, add, sync) path is nulled.
        """
        context, video, sync = torch.cat([conditioned.video, conditioned.text], 1), conditioned.video, conditioned.sync
        if drop is not None:
            cross_keep, add_keep, sync_keep = (~mask[:, None, None] for mask in drop)
            context, video, sync = context * cross_keep, video * add_keep, sync * sync_keep
        context = self.to_cond_embed(context)
        with self.transformer.autocast(context):
            pairs = [layer.cross_attn.keys_values(context) for layer in self.transformer.blocks]
        add = resample_time(self.to_add_embed(video), length)
        sync = resample_time(self.to_sync_embed(sync), length)
        stream = self.transformer.gate.sigmoid() * add + self.transformer.sync_gate.sigmoid() * sync
        return Prepared(tuple(k for k, _ in pairs), tuple(v for _, v in pairs), stream, cfg_scale)

    def forward(self, x: Tensor, t: Tensor, prepared: Prepared) -> Tensor:
        """State (B, C, L), noise level (B,) or (1,) to the velocity (B, C, L); guided when cfg_scale is not 1.

        Raises SamplingError when `prepared` is not of B clips.
        """
        if len(prepared) != x.shape[0]:
            raise SamplingError(
                f"{x.shape[0]} states came with conditions of {len(prepared)} clips; repeat or tile the conditions."
            )
        guided = prepared.nfe == 2
        time = self.to_timestep_embed(self.timestep_features(t))
        tokens = x.transpose(1, 2)
        tokens = tokens + F.linear(tokens, self.preprocess_conv.weight[..., 0])
        if guided:
            tokens = torch.cat([tokens, tokens])
            time = time if time.shape[0] == 1 else torch.cat([time, time])
        y = self.transformer(tokens, time, prepared)
        if guided:
            conditional, null = y.chunk(2)
            y = null + prepared.cfg_scale * (conditional - null)
        y = y + F.linear(y, self.postprocess_conv.weight[..., 0])
        return y.transpose(1, 2)
