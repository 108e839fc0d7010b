"""The audio tower of Synchformer: an audio spectrogram transformer with one vector per time step.

Sources: v-iashin/Synchformer model/modules/feat_extractors/audio/ast.py; Gong et al. 2021 (arXiv:2104.01778). Names of
the parameters are the released ones without `afeat_extractor.`, which follow transformers' ASTModel.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import CheckpointError
from foundation.flat import load_strict
from foundation.motionformer import Aggregator
from foundation.synchformer import count, heads_of, tower

EPS = 1e-12
AUDIO = "afeat_extractor."
SPECIAL = 2
"""Tokens before the patches: class and distillation."""


class Embeddings(nn.Module):
    """Overlapping patches of the spectrogram, two special tokens in front, learned positions."""

    def __init__(self, width: int, patches: int, patch: int, stride: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, SPECIAL + patches, width))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, width, patch, stride)})

    def forward(self, mel: Tensor) -> tuple[Tensor, int]:
        """(B, frames, bands) to (B, 2 + rows * columns, width), rows being frequencies; and the number of columns."""
        patches = self.patch_embeddings["projection"](mel.transpose(1, 2)[:, None])
        special = [token.expand(len(mel), -1, -1) for token in (self.cls_token, self.distillation_token)]
        tokens = torch.cat([*special, patches.flatten(2).transpose(1, 2)], dim=1)
        return tokens + self.position_embeddings, patches.shape[-1]


class SelfAttention(nn.Module):
    """Multi-head attention under the names of the released files."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        q, k, v = (
            self.attention[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        return self.output["dense"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and MLP, each pre-norm and residual."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, EPS)
        self.attention = SelfAttention(width, heads)
        self.layernorm_after = nn.LayerNorm(width, EPS)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x))))


class SpectrogramTransformer(nn.Module):
    """Log-mel segments to one vector per time step.

    width, depth, heads, hidden: of the layers; the aggregator over frequencies has the same. patches: per segment.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        patches: int = 72,
        patch: int = 16,
        stride: int = 10,
    ):
        super().__init__()
        self.patch, self.stride = patch, stride
        hidden = hidden or 4 * width
        self.ast = nn.ModuleDict(
            {
                "embeddings": Embeddings(width, patches, patch, stride),
                "encoder": nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads, hidden) for _ in range(depth))}),
                "layernorm": nn.LayerNorm(width, EPS),
            }
        )
        self.freq_attn_agg = Aggregator(width, heads, hidden)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], heads: int | None = None, source: str = "the file"
    ) -> "SpectrogramTransformer":
        """A frozen tower of the tensors' own dimensions, in evaluation mode.

        tensors: of a whole Synchformer file, as `foundation.synchformer.read` gives them. heads: one per 64 channels
        when None. Raises CheckpointError: no audio tower, keys or shapes that do not fit.
        """
        own = tower(tensors, AUDIO, source)
        model = cls.shaped(own, heads, source)
        load_strict(model, own, source)
        return model.eval().requires_grad_(False)

    @classmethod
    def shaped(
        cls, own: Mapping[str, Tensor], heads: int | None = None, source: str = "the file"
    ) -> "SpectrogramTransformer":
        """A tower on the meta device for tensors without their prefix. Raises CheckpointError as `of`."""
        names = ("position_embeddings", "patch_embeddings.projection.weight")
        position, kernel = (own.get(f"ast.embeddings.{name}") for name in names)
        hidden = own.get("ast.encoder.layer.0.intermediate.dense.weight")
        if position is None or kernel is None or hidden is None:
            raise CheckpointError(f"{source} has no complete audio tower under {AUDIO}*; expected the full state dict.")
        width = position.shape[-1]
        with torch.device("meta"):
            return cls(
                width=width,
                depth=count(own, "ast.encoder.layer."),
                heads=heads or heads_of(width, source),
                hidden=hidden.shape[0],
                patches=position.shape[1] - SPECIAL,
                patch=kernel.shape[-1],
            )

    def columns(self, frames: int) -> int:
        """Vectors for that many spectrogram frames."""
        return (frames - self.patch) // self.stride + 1

    def forward(self, mel: Tensor) -> Tensor:
        """(..., frames, bands), normalised, to (..., columns, width): 66 x 128 to 6 vectors in the released model."""
        x, columns = self.ast["embeddings"](mel.flatten(0, -3))
        for layer in self.ast["encoder"]["layer"]:  # pyright: ignore[reportIndexIssue, reportGeneralTypeIssues]
            x = layer(x)
        x = self.ast["layernorm"](x)[:, SPECIAL:].unflatten(1, (-1, columns))  # (B, rows, columns, width)
        pooled = self.freq_attn_agg(x.transpose(1, 2).flatten(0, 1))
        return pooled.view(*mel.shape[:-2], columns, -1)
