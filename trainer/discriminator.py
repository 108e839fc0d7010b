"""What the autoencoder is trained against: convolutions over complex spectrograms at several resolutions.

Layout: facebookresearch/encodec msstftd.py, with the strides of Stability-AI/stable-audio-tools models/encodec.py;
losses: models/discriminators.py there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

RESOLUTIONS = (2048, 1024, 512, 256, 128)
DILATIONS = (1, 2, 4)  # in time, of the middle layers
SLOPE = 0.2


class StftDiscriminator(nn.Module):
    """One resolution. size: of the FFT and the Hann window; a quarter of it is the hop. filters: of every layer."""

    window: Tensor

    def __init__(self, audio_channels: int, filters: int, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        self.scale = 1 / math.sqrt(3 / 8 * size)  # one over the window's norm
        layers = [nn.Conv2d(2 * audio_channels, filters, (3, 9), padding=(1, 4))]
        layers += [nn.Conv2d(filters, filters, (3, 9), padding=(d, 4), dilation=(d, 1)) for d in DILATIONS]
        layers += [nn.Conv2d(filters, filters, 3, padding=1)]
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.judge = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, sound: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, S) to logits (B, 1, frames, bins), high for real, and the outputs of the layers."""
        batch, channels, samples = sound.shape
        with torch.autocast(sound.device.type, enabled=False):
            spectrum = torch.stft(
                sound.float().reshape(-1, samples), self.size, self.size // 4, window=self.window, center=False,
                return_complex=True,
            )  # fmt: skip
        spectrum = (spectrum * self.scale).view(batch, channels, *spectrum.shape[1:])
        x = torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        outputs = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            outputs.append(x)
        return self.judge(x), outputs


class Discriminator(nn.Module):
    """All resolutions."""

    def __init__(self, audio_channels: int = 2, filters: int = 64, resolutions: tuple[int, ...] = RESOLUTIONS):
        super().__init__()
        self.scales = nn.ModuleList(StftDiscriminator(audio_channels, filters, size) for size in resolutions)

    def forward(self, sound: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """(B, C, S) to logits and layer outputs of every resolution."""
        return [scale(sound) for scale in self.scales]

    def own_loss(self, real: Tensor, made: Tensor) -> Tensor:
        """Hinge loss of the discriminator: real sounds above 1, made ones below -1; mean over resolutions."""
        pairs = zip(self(real), self(made.detach()), strict=True)
        losses = [F.relu(1 - r.float()).mean() + F.relu(1 + m.float()).mean() for (r, _), (m, _) in pairs]
        return torch.stack(losses).mean()

    def autoencoder_losses(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial and feature-matching losses of what made `made`; mean over layers and resolutions."""
        with torch.no_grad():
            references = [outputs for _, outputs in self(real)]
        adversarial, matching = [], []
        for (logits, outputs), reference in zip(self(made), references, strict=True):
            adversarial.append(-logits.float().mean())
            apart = [(a.float() - b.float()).abs().mean() for a, b in zip(outputs, reference, strict=True)]
            matching.append(torch.stack(apart).mean())
        return torch.stack(adversarial).mean(), torch.stack(matching).mean()
