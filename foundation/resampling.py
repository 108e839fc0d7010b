"""Changing the sample rate with a windowed sinc, on the tensor's device, as released audio models were trained.

Source of the formula: torchaudio 2.11 `functional.resample` with `sinc_interp_hann`. `media.audio.resample` (soxr) is
the better resampler; this one gives the numbers that a released front end expects.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ROLLOFF = 0.99


def resample(audio: Tensor, rate: int, new_rate: int, width: int = 6) -> Tensor:
    """(..., S) at `rate` to (..., ceil(S * new_rate / rate)) at `new_rate` (whole Hz), in the audio's type.

    width: zero crossings of the sinc on each side; torchaudio's default is 6, PrismAudio's sync reward uses 64.
    Raises ValueError for rates or a width below 1.
    """
    if min(rate, new_rate, width) < 1:
        raise ValueError(f"resample needs rates and a width of at least 1, got {rate}, {new_rate} and {width}.")
    if rate == new_rate:
        return audio
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    kernels, reach = _kernels(old, new, width)
    flat = F.pad(audio.flatten(0, -2) if audio.dim() > 1 else audio[None], (reach, reach + old))
    out = F.conv1d(flat[:, None], kernels.to(audio), stride=old).transpose(1, 2).flatten(1)
    return out[:, : -(-audio.shape[-1] * new // old)].reshape(*audio.shape[:-1], -1)


@lru_cache(maxsize=8)
def _kernels(old: int, new: int, width: int) -> tuple[Tensor, int]:
    """(new, 1, taps) filters, one for each place of an output sample between inputs, and how far they reach back."""
    cutoff = min(old, new) * ROLLOFF
    reach = math.ceil(width * old / cutoff)
    # In float32 and in this order, as the original does: exact filters are 9e-6 away from its numbers.
    places = torch.arange(0, -new, -1, dtype=torch.float32)[:, None] / new
    crossings = (places + torch.arange(-reach, reach + old, dtype=torch.float32) / old) * cutoff
    crossings = crossings.clamp_(-width, width)
    window = torch.cos(crossings * torch.pi / width / 2) ** 2
    angle = crossings * torch.pi
    sinc = torch.where(angle == 0, 1.0, angle.sin() / angle)
    return (sinc * window * (cutoff / old))[:, None], reach
