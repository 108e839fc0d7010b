"""How audio-text models of a fixed length hear a clip of any length and level: all of it, and always the same."""

import math

import torch
from torch import Tensor

LEVEL_DB = -20.0
PEAK = 0.99


def levelled(mono: Tensor) -> Tensor:
    """(B, S) to the same sounds at -20 dBFS RMS, or at a peak of 0.99 where that would clip.

    Both are gains, so a sound and a louder or softer copy of it become the same one: what was trained on sounds of one
    level is not asked about level, and being loud earns nothing. Silence stays what it is.
    """
    rms = mono.square().mean(1, keepdim=True).sqrt()
    peak = mono.abs().amax(1, keepdim=True)
    gain = torch.minimum(10 ** (LEVEL_DB / 20) / rms.clamp_min(1e-9), PEAK / peak.clamp_min(1e-9))
    return torch.where(peak > 0, mono * gain, mono)


def starts(samples: int, window: int) -> list[int]:
    """First samples of as few windows as cover a clip, evenly spread: the first at 0, the last ending with the clip.

    One, at 0, where the clip is not longer than the window.
    """
    count = max(1, math.ceil(samples / window))
    return [round(i * (samples - window) / (count - 1)) if count > 1 else 0 for i in range(count)]


def cut(mono: Tensor, window: int) -> Tensor:
    """(B, S) to (B, n, min(S, window)): the windows at `starts`."""
    samples = mono.shape[-1]
    return torch.stack([mono[:, at : at + window] for at in starts(samples, window)], dim=1)


def repeated(sounds: Tensor, window: int, whole: bool = False) -> Tensor:
    """(B, S), S <= window, to (B, window) by repetition. whole: whole repetitions only, zeros in what is left."""
    samples = sounds.shape[-1]
    times = window // samples if whole else math.ceil(window / samples)
    filled = sounds.repeat(1, times)[:, :window]
    return torch.nn.functional.pad(filled, (0, window - filled.shape[-1]))


def pooled(embeddings: Tensor) -> Tensor:
    """(B, n, D) embeddings of windows to (B, D): the direction of the mean of their directions."""
    return torch.nn.functional.normalize(torch.nn.functional.normalize(embeddings, dim=-1).mean(1), dim=-1)
