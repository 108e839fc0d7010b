"""Delay between two channels: generalised cross-correlation with the phase transform (GCC-PHAT; Knapp & Carter 1976).

The cross spectrum of a window is divided by its magnitude, so that only phases are left, and its correlation is
searched for the highest point. Band limits include the lower edge and not the upper one.
"""

from functools import lru_cache
from math import ceil, log2

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from rewards_service.errors import RewardError

UPSAMPLE = 4
WINDOW_S = 0.24
WINDOWS = 16
FINEST_HZ = 256_000
FULL_BAND_MS, BAND_MS = 1.5, 1.0
QUIET_DB = -60.0
SILENCE = 1e-12

OFFICIAL_RATE = 16_000
OFFICIAL_SECONDS = 6.03
OFFICIAL_WINDOWS = 512
OFFICIAL_SAMPLES = 3840


def delay_ms(
    waveform: np.ndarray | Tensor,
    sample_rate: int,
    band: tuple[float, float] | None = None,
    max_ms: float | None = None,
) -> float:
    """By how many ms the right channel of a clip lags the left one; negative where it leads.

    waveform: (2, S). band: (low, high) in Hz, or None for the full band. max_ms: largest delay looked for; 1 in a band,
    1.5 in the full band. The mean over windows of 240 ms that cover the clip, at least 16 of them unless it is too
    short, on a grid of 1/16 sample at 16 kHz and 1/8 at 44.1 and 48 kHz. Windows more than 60 dB below the loudest, and
    those in which a channel is silent, are left out; where none is left, as in silence, it is 0.0.
    Raises RewardError for another shape, NaN or infinite samples, less than 2 ms of sound, or an empty band.
    """
    x = torch.as_tensor(waveform).detach().cpu().double()
    if x.ndim != 2 or x.shape[0] != 2 or x.shape[1] < 0.002 * sample_rate:
        raise RewardError(f"A delay needs sound of shape (2, samples), 2 ms of it at least; got {tuple(x.shape)}.")
    if not torch.isfinite(x).all():
        raise RewardError("A delay cannot be measured: the sound holds NaN or infinite samples.")
    if band is not None and not 0 <= band[0] < min(band[1], sample_rate / 2):
        raise RewardError(f"A band must lie between 0 and {sample_rate / 2:g} Hz, the lower edge first; got {band}.")
    length = min(round(WINDOW_S * sample_rate), x.shape[1])
    windows = spread(x[None], length, max(WINDOWS, ceil(x.shape[1] / length)))[0]
    energy = windows.square().mean(2)
    audible = (energy.sum(0) >= energy.sum(0).max() * 10 ** (QUIET_DB / 10)) & (energy > SILENCE).all(0)
    if not audible.any():
        return 0.0
    heard = windows[:, audible]
    interpolation = 2 ** max(0, ceil(log2(FINEST_HZ / sample_rate)))
    most = max_ms if max_ms is not None else (FULL_BAND_MS if band is None else BAND_MS)
    reach = min(int(most / 1000 * sample_rate * interpolation + 1e-6), length * interpolation - 1)
    lags = []
    for left, right in zip(heard[0].split(WINDOWS), heard[1].split(WINDOWS), strict=True):
        found = fine_correlation(left, right, sample_rate, reach, interpolation, band)
        lags.append(found.argmax(-1) - reach)
    return 1000 * float(torch.cat(lags).double().mean()) / (sample_rate * interpolation)


def official_delay_ms(
    audio: Tensor,
    windows: int = OFFICIAL_WINDOWS,
    length: int = OFFICIAL_SAMPLES,
    interpolation: int = 1,
    seconds: float = OFFICIAL_SECONDS,
) -> Tensor:
    """(B, 2, S) at 16 kHz to (B,) ms as PrismAudio's reward measures it: of the first 6.03 s, to whole samples.

    The full band, 512 windows of 240 ms, the largest magnitude within 1.5 ms, the mean over windows. What is silent
    gets +1.5 (the first of equal values). Shorter clips have their windows closer together, the shortest fewer.
    Source: FunAudioLLM/ThinkSound (prismaudio) grpo/fast_grpo/reward_itd.py, IFICL/stereocrw vis_scripts/vis_functs.py.
    """
    audio = audio[..., : round(seconds * OFFICIAL_RATE)]
    reach = int(FULL_BAND_MS / 1000 * OFFICIAL_RATE * interpolation)
    found = []
    for clip in audio:
        left, right = spread(clip[None], length, windows)[0]
        # The right channel's spectrum is conjugated there: equal magnitudes are met from the positive end.
        place = fine_correlation(right, left, OFFICIAL_RATE, reach, interpolation).abs().argmax(-1)
        found.append((reach - place).double().mean())
    return torch.stack(found) * (1000 / (OFFICIAL_RATE * interpolation))


def spread(audio: Tensor, length: int, count: int) -> Tensor:
    """(B, 2, S) to (B, 2, W, length): `count` windows at equal steps of whole samples, filled up with silence."""
    audio = torch.nn.functional.pad(audio, (0, max(0, length - audio.shape[-1])))
    room = audio.shape[-1] - length
    count = min(count, room + 1)
    return audio.unfold(-1, length, max(1, room // max(1, count - 1)))[..., :count, :]


def fine_correlation(
    left: Tensor, right: Tensor, rate: int, reach: int, interpolation: int, band: tuple[float, float] | None = None
) -> Tensor:
    """(W, L) windows of both channels to their (W, 2 * reach + 1) correlation, highest where the right one lags by.

    reach: largest lag, in steps of 1 / (rate * interpolation) s.
    """
    size = 2 * left.shape[-1]
    cross = torch.fft.rfft(left, n=size).conj() * torch.fft.rfft(right, n=size)
    cross = cross / (cross.abs() + 1e-20)
    if band is not None:
        low, high = band_bins(band[0], band[1], rate, size)
        cross[..., :low] = 0
        cross[..., high:] = 0
    whole = torch.fft.irfft(cross, n=size * interpolation)
    return torch.cat([whole[..., whole.shape[-1] - reach :], whole[..., : reach + 1]], dim=-1)


def band_bins(low: float, high: float, rate: int, size: int) -> tuple[int, int]:
    """First bin at or above `low` Hz and first at or above `high`, of a transform of `size` samples."""
    first, last = (ceil(hz * size / rate - 1e-6) for hz in (low, high))
    return first, min(max(last, first + 1), size // 2 + 1)


def correlation(left: Tensor, right: Tensor, low: int, size: int, reach: int, whitening: float = 1.0) -> Tensor:
    """(..., W, F) spectra, their bins from `low` on, to the (..., W, 2 * reach + 1) correlation near lag 0.

    Lags are those of the LEFT channel after the right, in steps of 1 / UPSAMPLE sample. size: of the transform.
    whitening: 1 is GCC-PHAT, 0 plain correlation. The spectra are not written to.
    """
    # The whitened cross spectrum; its real part belongs to what is even in the lag, its imaginary part to the rest.
    even = (left.real * right.real).addcmul_(left.imag, right.imag)
    odd = (left.imag * right.real).addcmul_(left.real, right.imag, value=-1)
    white = even.square().addcmul_(odd, odd).clamp_min_(1e-24).pow_(-whitening / 2)
    cosines, sines = _waves(low, low + left.shape[-1] - 1, size, reach, str(left.device))
    even, odd = even.mul_(white) @ cosines, odd.mul_(white) @ sines
    return torch.cat([(even + odd)[..., 1:].flip(-1), even - odd], dim=-1)


def peak(found: Tensor) -> Tensor:
    """Lag of the highest point of a (..., 2 * reach + 1) correlation, in steps and, by a parabola, fractions of one."""
    reach = found.shape[-1] // 2
    best = found.argmax(-1).clamp(1, 2 * reach - 1)
    left, mid, right = (found.gather(-1, (best + k)[..., None])[..., 0] for k in (-1, 0, 1))
    bend = (left - 2 * mid + right).clamp_max(-1e-20)
    return best - reach + (0.5 * (left - right) / bend).clamp(-1, 1)


def confidence(found: Tensor) -> Tensor:
    """Highest point of a correlation over its mean magnitude; 0 where there is none, as in silence."""
    return found.amax(-1) / found.abs().mean(-1).clamp_min(1e-20)


def transform_size(length: int, reach: float) -> int:
    """A size for windows of `length` samples and lags up to `reach` samples that is fast to transform."""
    return int(next_fast_len(length + round(reach), real=True) or length)


@lru_cache(maxsize=4)
def _waves(low: int, high: int, size: int, reach: int, device: str) -> tuple[Tensor, Tensor]:
    """(high - low + 1, reach + 1) cosines and sines of the bins low..high of `size` at lags 0..reach / UPSAMPLE."""
    angle = torch.outer(torch.arange(low, high + 1), torch.arange(reach + 1) / UPSAMPLE) * (2 * torch.pi / size)
    return angle.cos().to(device), angle.sin().to(device)
