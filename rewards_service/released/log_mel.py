"""Log-mel spectrograms as the released audio-text models were trained on, batched in torch on any device."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

FLOOR = 1e-10


@dataclass(frozen=True)
class LogMel:
    """Hann frames of `window` samples every `hop`, mirrored at the edges; power in mel bands, in dB, not below -100.

    rate: Hz. bands: from `low` to `high` Hz. scale: "slaney" with bands of equal area (librosa's and torchlibrosa's
    default), or "htk" with bands of equal height (torchaudio's).
    """

    rate: int = 48000
    window: int = 1024
    hop: int = 480
    bands: int = 64
    low: float = 50.0
    high: float = 14000.0
    scale: Literal["slaney", "htk"] = "slaney"

    @cached_property
    def filters(self) -> Tensor:
        """(window // 2 + 1, bands) float32."""
        from transformers.audio_utils import mel_filter_bank

        norm = "slaney" if self.scale == "slaney" else None
        made = mel_filter_bank(
            self.window // 2 + 1, self.bands, self.low, self.high, self.rate, norm=norm, mel_scale=self.scale
        )
        return torch.from_numpy(made).float()

    def __call__(self, mono: Tensor) -> Tensor:
        """(B, S), S > window / 2, to (B, S // hop + 1, bands) dB."""
        hann = torch.hann_window(self.window, device=mono.device)
        spectrum = torch.stft(mono, self.window, self.hop, window=hann, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        return 10 * torch.log10((power @ self.filters.to(mono.device)).clamp_min(FLOOR))
