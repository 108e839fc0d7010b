"""Short-time spectra shared by the scorers: frames, power and mel bands, batched in float32."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 8


def power_frames(audio: Tensor, window: int, hop: int) -> Iterator[Tensor]:
    """(B, 2, S), S > window / 2, to power spectra of Hann frames of the mean of both channels, centred on multiples
    of `hop`: (b, S // hop + 1, window // 2 + 1) for a few samples at a time, so that they stay in the cache.

    The edges are mirrored, so that cutting into a sound does not look like an onset.
    """
    hann = torch.hann_window(window) * 0.5  # half of the sum is the mean
    for part in audio.split(CHUNK):
        left, right = part.unbind(1)
        padded = part.new_empty(len(part), part.shape[-1] + 2 * (window // 2))
        before, inside, after = padded.tensor_split((window // 2, -(window // 2)), dim=1)
        torch.add(left, right, out=inside)
        before.copy_(inside[:, 1 : window // 2 + 1].flip(1))
        after.copy_(inside[:, -(window // 2) - 1 : -1].flip(1))
        squares = torch.view_as_real(torch.fft.rfft(padded.unfold(1, window, hop) * hann)).square_()
        yield squares[..., 0] + squares[..., 1]


def band_power(audio: Tensor, window: int, hop: int, filters: Tensor) -> Tensor:
    """(B, 2, S) to (B, S // hop + 1, bands): `power_frames` through (window // 2 + 1, bands) filters."""
    return torch.cat([power @ filters for power in power_frames(audio, window, hop)])


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
