"""Multi-resolution STFT distance of stereo sounds, as the released autoencoder was trained with.

Definitions: csteinmetz1/auraloss freq.py, perceptual.py; sizes: Stability-AI/stable-audio-tools,
configs/model_configs/autoencoders/stable_audio_2_0_vae.json.
"""

import math

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESOLUTIONS = (2048, 1024, 512, 256, 128, 64, 32)
LEAST_POWER = 1e-8
# A channel this far below the other one is judged against that one: the difference of a mono recording is silence, and
# an error relative to silence would drown everything else.
LEAST_SHARE = 0.01


def a_weighting(sample_rate: int, taps: int = 101) -> Tensor:
    """Linear-phase filter (taps,) that weighs frequencies as the ear does (IEC 61672 A-curve), 1 at 1 kHz.

    Least-squares fit to the bilinear transform of the analogue filter: four zeros at 0, poles at 20.6 Hz (twice),
    107.7 Hz, 737.9 Hz and 12.2 kHz (twice).
    """
    poles = [-2 * math.pi * f for f in (20.598997, 20.598997, 107.65265, 737.86223, 12194.217, 12194.217)]
    gain = (2 * math.pi * 12194.217) ** 2 * 10 ** (1.9997 / 20)
    digital = scipy.signal.bilinear_zpk([0.0] * 4, poles, gain, sample_rate)
    frequencies, response = scipy.signal.freqz_zpk(*digital, worN=512, fs=sample_rate)
    fitted = scipy.signal.firls(taps, frequencies, np.abs(response), fs=sample_rate)
    return torch.from_numpy(np.ascontiguousarray(fitted, np.float32))


class SpectralLoss(nn.Module):
    """Mean over resolutions of spectral convergence plus log-magnitude distance, of sum and difference of the channels.

    resolutions: FFT sizes; windows are Hann of the same length, hops a quarter. weighted: A-weight both sounds first.
    """

    weighting: Tensor

    def __init__(self, sample_rate: int, resolutions: tuple[int, ...] = RESOLUTIONS, weighted: bool = True):
        super().__init__()
        self.resolutions = resolutions
        self.weighted = weighted
        self.register_buffer("weighting", a_weighting(sample_rate)[None, None], persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Two sounds (B, C, S), C one or two channels, to a scalar; gradients flow into `made`."""
        with torch.autocast(made.device.type, enabled=False):
            x, y = self._channels(made.float()), self._channels(real.float())
            distances = [self._distance(x, y, size) for size in self.resolutions]
        return torch.stack(distances).mean()

    def _channels(self, sound: Tensor) -> Tensor:
        """(B, C, S) to (C, B, S): sum and difference, weighted."""
        if sound.shape[1] == 2:
            sound = torch.stack([sound[:, 0] + sound[:, 1], sound[:, 0] - sound[:, 1]], dim=1)
        channels = sound.transpose(0, 1)
        if not self.weighted:
            return channels
        flat = channels.reshape(-1, 1, channels.shape[-1])
        return F.conv1d(flat, self.weighting, padding=self.weighting.shape[-1] // 2).view(channels.shape)

    def _distance(self, x: Tensor, y: Tensor, size: int) -> Tensor:
        x, y = self._magnitudes(x, size), self._magnitudes(y, size)
        norms = torch.linalg.vector_norm(y, dim=(-2, -1))
        norms = torch.maximum(norms, LEAST_SHARE * norms.amax(dim=0, keepdim=True))
        convergence = torch.linalg.vector_norm(y - x, dim=(-2, -1)) / norms
        return convergence.mean() + (x.log() - y.log()).abs().mean()

    def _magnitudes(self, sound: Tensor, size: int) -> Tensor:
        """(C, B, S) to (C, B, bins, frames)."""
        window = torch.hann_window(size, device=sound.device)
        flat = sound.reshape(-1, sound.shape[-1])
        spectrum = torch.stft(flat, size, size // 4, window=window, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return power.clamp(min=LEAST_POWER).sqrt().view(*sound.shape[:2], *power.shape[1:])
