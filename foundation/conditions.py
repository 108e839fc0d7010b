"""The three condition tensors every encoder set produces and the DiT consumes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """Encoder features of a batch of clips, or the conditioners' outputs for them.

    video: (B, Tv, Cv) frame embeddings. text: (B, Tt, Ct) token embeddings. sync: (B, Ts, Cs) at or near latent rate.
    """

    video: Tensor
    text: Tensor
    sync: Tensor

    def __len__(self) -> int:
        return self.video.shape[0]

    def __getitem__(self, index: slice | Tensor) -> "Conditions":
        return Conditions(self.video[index], self.text[index], self.sync[index])

    def repeat_interleave(self, times: int) -> "Conditions":
        """Each clip's features `times` times in a row, clip-major."""
        return Conditions(*(t.repeat_interleave(times, dim=0) for t in (self.video, self.text, self.sync)))

    def to(self, device: torch.device | str) -> "Conditions":
        """A copy on another device."""
        return replace(self, video=self.video.to(device), text=self.text.to(device), sync=self.sync.to(device))

    @staticmethod
    def cat(parts: list["Conditions"]) -> "Conditions":
        """Concatenate along the batch; token counts must agree."""
        return Conditions(*(torch.cat([getattr(p, n) for p in parts]) for n in ("video", "text", "sync")))
