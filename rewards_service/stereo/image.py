"""The stereo image of sounds, window by window: delay, level difference per band, and how wide and mono-safe it is."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rewards_service.stereo.delays import UPSAMPLE, confidence, correlation, peak, transform_size
from rewards_service.stereo.delays import band_bins as bins

RATE = 16_000
BANDS_HZ = (100.0, 500.0, 2000.0, 4500.0, 8000.0)
DELAY_BANDS = 2
LOWEST_HZ, HIGHEST_HZ = BANDS_HZ[0], BANDS_HZ[DELAY_BANDS]
REACH_MS = 1.0
FLOOR_DB = -50.0
AT_ONCE = 8


@dataclass(frozen=True)
class StereoImage:
    """W windows of B sounds in K bands.

    times: (W,) s, middle of each. delay_ms: (B, W) by which the right channel lags, of 100 to 2000 Hz. confidence:
    (B, W) peak of its correlation over the mean magnitude: 1.5 to 3 for diffuse sound, above 4 for one source.
    level_db: (B, W, K) right above left. share: (B, W, K) of the window's energy in the band, sums to 1.
    side: (B, W, K) share of the energy that is in the difference of the channels and lost in a mono mix: 0 for mono, a
    half for unrelated channels or one alone, 1 for opposed ones. amplitude: (B, W) relative to the loudest window.
    """

    times: Tensor
    delay_ms: Tensor
    confidence: Tensor
    level_db: Tensor
    share: Tensor
    side: Tensor
    amplitude: Tensor

    @property
    def broad_level_db(self) -> Tensor:
        """(B, W) level difference, the mean over bands by their energy."""
        return (self.level_db * self.share).sum(-1)

    @property
    def delay_share(self) -> Tensor:
        """(B, W) of a window's energy in the band of which the delay is."""
        return self.share[..., :DELAY_BANDS].sum(-1)

    def at(self, times: Tensor) -> "StereoImage":
        """The image at other times, linearly interpolated; before the first and after the last window it is held."""
        if times.shape == self.times.shape and torch.equal(times, self.times):
            return self
        where = torch.from_numpy(np.interp(times.cpu().numpy(), self.times.cpu().numpy(), np.arange(len(self.times))))
        low = where.long().clamp(max=max(len(self.times) - 2, 0)).to(self.delay_ms.device)
        high = (low + 1).clamp(max=len(self.times) - 1)
        part = (where.to(low.device) - low).float()

        def blend(x: Tensor) -> Tensor:
            weight = part.reshape(-1, *[1] * (x.dim() - 2))
            return x[:, low] * (1 - weight) + x[:, high] * weight

        return replace(self.map(blend), times=times)

    def to(self, device: str) -> "StereoImage":
        """The same on another device."""
        return replace(self.map(lambda x: x.to(device)), times=self.times.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "StereoImage":
        """With every measurement changed; the times stay."""
        return replace(self, **{name: change(getattr(self, name)) for name in MEASURED})

    def arrays(self) -> dict[str, np.ndarray]:
        """The only image (B = 1) as arrays by `ARRAYS`."""
        return {TIMES: self.times.numpy(), **{name: getattr(self, name)[0].numpy() for name in MEASURED}}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> "StereoImage":
        """Back from `arrays`."""
        tensors = {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in arrays.items()}
        return cls(times=tensors[TIMES], **{name: tensors[name][None] for name in MEASURED})


TIMES = "time_s"
MEASURED = tuple(f.name for f in fields(StereoImage) if f.name != "times")
ARRAYS = (TIMES, *MEASURED)
"""Names under which an image is kept in a feature store."""


def identity(window_s: float, hop_s: float) -> str:
    """Name of what measures images in such windows, with a digest of everything that the numbers depend on."""
    settings = [RATE, BANDS_HZ, LOWEST_HZ, HIGHEST_HZ, REACH_MS, FLOOR_DB, window_s, hop_s]
    return f"delays-{hashlib.sha256(json.dumps([settings, ARRAYS]).encode()).hexdigest()[:10]}"


def stack(images: Sequence[StereoImage]) -> StereoImage:
    """Images of the same windows as one, along B."""
    joined = {name: torch.cat([getattr(image, name) for image in images]) for name in MEASURED}
    return StereoImage(times=images[0].times, **joined)


def measure(audio: Tensor, window_s: float, hop_s: float) -> StereoImage:
    """The image of (B, 2, S) sounds at 16 kHz, in windows of `window_s` every `hop_s` that cover all of it."""
    length, hop = round(window_s * RATE), round(hop_s * RATE)
    count = 1 + max(0, -(-(audio.shape[-1] - length) // hop))
    audio = torch.nn.functional.pad(audio, (0, max(0, (count - 1) * hop + length - audio.shape[-1])))
    times = (torch.arange(count, device=audio.device) * hop + length / 2) / RATE
    return stack([_measure(part.unfold(-1, length, hop), times) for part in audio.split(AT_ONCE)])


def _measure(windows: Tensor, times: Tensor) -> StereoImage:
    """(B, 2, W, L)."""
    length = windows.shape[-1]
    reach = round(REACH_MS / 1000 * RATE)
    size = transform_size(length, 2 * reach)
    left, right = torch.fft.rfft(windows, n=size).unbind(1)
    low, high = bins(LOWEST_HZ, HIGHEST_HZ, RATE, size)
    found = correlation(left[..., low:high], right[..., low:high], low, size, reach * UPSAMPLE)
    power_left, power_right, both = (
        banded(part, size) for part in (_power(left), _power(right), left.real * right.real + left.imag * right.imag)
    )
    power = power_left + power_right
    certain = confidence(found)
    delay = torch.where(certain > 0, -1000 * peak(found) / (UPSAMPLE * RATE), 0.0)  # silence has no highest point
    floor = 10 ** (FLOOR_DB / 10) * power.amax((1, 2), keepdim=True).clamp_min(1e-12)
    energy = power.sum(-1)
    return StereoImage(
        times=times,
        delay_ms=delay,
        confidence=certain,
        level_db=10 * torch.log10((power_right + floor) / (power_left + floor)),
        share=(power + floor) / (power + floor).sum(-1, keepdim=True),
        side=(0.5 * power - both).clamp_min(0) / (power + floor),
        amplitude=(energy / energy.amax(1, keepdim=True).clamp_min(1e-12)).sqrt(),
    )


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def banded(power: Tensor, size: int) -> Tensor:
    """(..., F) of a transform of `size` samples to (..., K) sums over `BANDS_HZ`."""
    edges = [bins(low, high, RATE, size) for low, high in pairwise(BANDS_HZ)]
    return torch.stack([power[..., first:last].sum(-1) for first, last in edges], dim=-1)
