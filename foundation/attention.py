"""Norms, rotary positions and the two attentions of a block (PrismAudio models/transformer.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Layer norm with a learned scale; the shift is a buffer that only a checkpoint can make non-zero."""

    beta: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, 1e-5)


class HeadNorm(nn.RMSNorm):
    """RMS norm in the precision of what comes in: under autocast that is narrower than the weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., head_dim) to (..., head_dim)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class RotaryEmbedding(nn.Module):
    """Rotary positions over the first `dim` dimensions of a head, in half-split (not interleaved) layout."""

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10000.0):
        super().__init__()
        self.register_buffer("inv_freq", base ** -(torch.arange(0, dim, 2).float() / dim))

    def forward(self, tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, each (tokens, head_dim); dimensions beyond the rotated ones get 1 and 0."""
        angles = torch.arange(tokens, device=self.inv_freq.device, dtype=self.inv_freq.dtype)[:, None] * self.inv_freq
        rest = angles.new_zeros(tokens, head_dim - 2 * angles.shape[1])
        cosines = torch.cat([angles.cos(), angles.cos(), rest + 1], dim=-1)
        sines = torch.cat([-angles.sin(), angles.sin(), rest], dim=-1)
        return cosines, sines


def swap_halves(x: Tensor, dim: int) -> Tensor:
    """The two halves of the first `dim` entries of the last axis exchanged; the others stay."""
    first, second, rest = x.split([dim // 2, dim // 2, x.shape[-1] - dim], dim=-1)
    return torch.cat([second, first, rest], dim=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention with per-head RMS norm on queries and keys, then rotary positions."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm = HeadNorm(width // heads)
        self.k_norm = HeadNorm(width // heads)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor, rotary_dim: int) -> Tensor:
        """(B, T, width) with tables (T, head_dim) to (B, T, width)."""
        batch, tokens, width = x.shape
        q, k, v = self.to_qkv(x).view(batch, tokens, 3, self.heads, -1).unbind(2)
        q, k = self.q_norm(q), self.k_norm(k)
        c, s = cosines[:, None], sines[:, None]
        q = q * c + swap_halves(q, rotary_dim) * s
        k = k * c + swap_halves(k, rotary_dim) * s
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.to_out(y.transpose(1, 2).reshape(batch, tokens, width))


class CrossAttention(nn.Module):
    """Multi-head attention to the condition tokens with per-head RMS norm and no positions, no mask."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm = HeadNorm(width // heads)
        self.k_norm = HeadNorm(width // heads)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, width) to keys and values, each (B, heads, S, head_dim); they do not depend on state or noise level.

        A zero context gives zero keys and values, hence an attention output of exactly zero.
        """
        k, v = self.to_kv(context).view(*context.shape[:2], 2, self.heads, -1).unbind(2)
        return self.k_norm(k).transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        batch, tokens, width = x.shape
        q = self.q_norm(self.to_q(x).view(batch, tokens, self.heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, keys, values)
        return self.to_out(y.transpose(1, 2).reshape(batch, tokens, width))
