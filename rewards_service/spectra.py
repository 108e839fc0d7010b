"""Short-time spectra shared by the scorers: frames, power and mel bands, batched in float32."""

import math

import torch
from torch import Tensor

CHUNK = 8


def mono(audio: Tensor) -> Tensor:
    """(B, 2, S) to the (B, S) mean of both channels."""
    return (audio[:, 0] + audio[:, 1]).mul_(0.5)


def power_frames(signal: Tensor, window: int, hop: int) -> Tensor:
    """(B, S) to (B, S // hop + 1, window // 2 + 1) power spectra of Hann frames centred on multiples of `hop`.

    The edges are mirrored, so that cutting into a sound does not look like an onset.
    """
    hann = torch.hann_window(window)
    spectrum = torch.stft(signal, window, hop, window=hann, center=True, pad_mode="reflect", return_complex=True)
    spectrum = spectrum.transpose(1, 2)
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


def band_power(signal: Tensor, window: int, hop: int, filters: Tensor) -> Tensor:
    """(B, S) to (B, S // hop + 1, bands): `power_frames` through (window // 2 + 1, bands) filters.

    A few samples at a time, so that the spectra stay in the cache: twice as fast as one batch.
    """
    return torch.cat([power_frames(part, window, hop) @ filters for part in signal.split(CHUNK)])


def mel_filters(bands: int, window: int, sample_rate: int, low: float, high: float) -> Tensor:
    """(window // 2 + 1, bands) triangles on the mel scale 2595 log10(1 + f / 700), each summing to 1.

    A triangle narrower than a bin takes its nearest bin.
    """

    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    points = 700 * (10 ** (torch.linspace(mel(low), mel(high), bands + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate / window
    rise = (bins[:, None] - points[:-2]) / (points[1:-1] - points[:-2])
    fall = (points[2:] - bins[:, None]) / (points[2:] - points[1:-1])
    filters = torch.minimum(rise, fall).clamp_min(0)
    empty = (filters.sum(0) <= 0).nonzero().flatten()
    nearest = (bins[:, None] - points[1:-1]).abs().argmin(0)
    filters[nearest[empty], empty] = 1.0
    return (filters / filters.sum(0)).float()


def decibels(power: Tensor, floor: Tensor | float) -> Tensor:
    """10 log10 of a power, not below `floor` (a power)."""
    return 10 * torch.log10(torch.maximum(power, torch.as_tensor(floor)))
