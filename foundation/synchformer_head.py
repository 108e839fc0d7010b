"""Synchformer's head: how far a sound is ahead of, or behind, its picture.

Source: v-iashin/Synchformer model/sync_model.py (GlobalTransformer) and model/modules/transformer.py.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import CheckpointError
from foundation.flat import load_strict, require_finite
from foundation.synchformer import count

PARTS = ("vproj.", "aproj.", "transformer.")


class Attention(nn.Module):
    """Multi-head attention of all tokens to all."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each pre-norm and residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GlobalTransformer(nn.Module):
    """Visual and audio tokens in one sequence, read off at the first place."""

    def __init__(self, width: int, depth: int, heads: int, positions: int, classes: int):
        super().__init__()
        self.OFF_tok = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.MOD_tok = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": nn.Parameter(torch.zeros(1, positions, width))})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.off_head = nn.Linear(width, classes)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """(B, Nv, width) and (B, Na, width), Nv + Na + 2 = positions, to (B, classes)."""
        first, between = (token.expand(len(visual), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        x = torch.cat([first, self.vis_in_lnorm(visual), between, self.aud_in_lnorm(audio)], dim=1)
        x = x + self.pos_emb_cfg["pos_emb"]
        for block in self.blocks:
            x = block(x)
        return self.off_head(self.ln_f(x)[:, 0])


class SyncHead(nn.Module):
    """The towers' features to logits over the classes of offsets; parameter names are the released ones.

    features: width of the towers. positions: 2 + visual + audio tokens; the released 198 are 14 segments of 8 and 6.
    classes: of offsets from -2 to 2 s; positive means that the sound begins earlier than it should.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 3,
        heads: int = 8,
        positions: int = 198,
        classes: int = 21,
        features: int | None = None,
    ):
        super().__init__()
        self.vproj, self.aproj = (nn.Linear(features or width, width) for _ in range(2))
        self.transformer = GlobalTransformer(width, depth, heads, positions, classes)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], heads: int = 8, source: str = "the file") -> "SyncHead":
        """A frozen head of the tensors' own dimensions, in evaluation mode.

        tensors: of a whole Synchformer file (`foundation.synchformer.read`). heads: not told by the shapes.
        Raises CheckpointError: no head, keys or shapes that do not fit.
        """
        own = {name: t.float() for name, t in tensors.items() if name.startswith(PARTS)}
        model = cls.shaped(own, heads, source)
        require_finite(own, f"Refusing to load {source}")
        load_strict(model, own, source)
        return model.eval().requires_grad_(False)

    @classmethod
    def shaped(cls, own: Mapping[str, Tensor], heads: int = 8, source: str = "the file") -> "SyncHead":
        """A head on the meta device for these tensors; others do not matter. Raises CheckpointError as `of`."""
        needed = ("transformer.pos_emb_cfg.pos_emb", "transformer.off_head.weight", "vproj.weight")
        if missing := [name for name in needed if name not in own]:
            raise CheckpointError(f"{source} has no {', '.join(missing)}; expected the full Synchformer state dict.")
        position, classes, projection = (own[name] for name in needed)
        with torch.device("meta"):
            return cls(
                width=position.shape[-1],
                depth=count(own, "transformer.blocks."),
                heads=heads,
                positions=position.shape[1],
                classes=classes.shape[0],
                features=projection.shape[1],
            )

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """(B, S, 8, features) and (B, S, 6, features) of the two towers to (B, classes)."""
        return self.transformer(self.vproj(visual.flatten(1, 2)), self.aproj(audio.flatten(1, 2)))
