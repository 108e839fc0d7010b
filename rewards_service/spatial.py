"""Spatial reward: does the sound come from where the object is seen?

In a window after every visible impact the delay between the channels (generalised cross-correlation) and their level
difference are turned into a place on screen and compared with the object's place at that time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import finish, prepare
from rewards_service.scores import Reference, Scores
from rewards_service.stereo.delays import UPSAMPLE, correlation, delay_ms, peak, transform_size

__all__ = ["SpatialScorer", "basis", "delay_ms"]

LEAD_S = 0.01


@dataclass(frozen=True)
class SpatialScorer:
    """Place by delay and by level, each scored exp(-|measured - seen| / softness), averaged.

    delay_s: delay (left after right) of a source at the right edge. level_db: right minus left level of that source.
    window_s: length of a window. whitening: 1 is GCC-PHAT, 0 plain correlation. lowest_hz, highest_hz:
    band of the delay; recorded stereo often needs 2000 Hz, above which common noise agrees better than the source.
    """

    delay_s: float = 0.000625
    level_db: float = 12.0
    window_s: float = 0.13
    softness: float = 0.3
    whitening: float = 0.7
    lowest_hz: float = 100.0
    highest_hz: float = 7500.0

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms; without impacts the loud parts of the whole clip are judged."""
        batch = prepare(waveforms, sample_rate, references)
        values, measured = [], []
        for clips, reference in zip(batch.audio.split(batch.members), references, strict=True):
            times, seen = self._windows(reference, batch.seconds)
            delay, level, energy = self._measure(clips, batch.sample_rate, times)
            match = 0.5 * (self._match(delay / self.delay_s, seen) + self._match(level / self.level_db, seen))
            weights = energy.sqrt()
            values.append((match * weights).sum(1) / weights.sum(1).clamp_min(1e-20))
            if detail:
                measured += self._details(reference, times, seen, delay, level, weights)
        return finish(batch, torch.cat(values), measured if detail else None)

    def _match(self, measured: Tensor, seen: Tensor) -> Tensor:
        return torch.exp(-(measured - seen).abs() / self.softness)

    def _windows(self, reference: Reference, seconds: float) -> tuple[np.ndarray, Tensor]:
        """(E,) start times in s, and the place seen in the middle of each."""
        if reference.events:
            offset = LEAD_S
            times = np.clip(np.array(reference.events) - offset, 0, None)
        else:
            offset = self.window_s / 2
            times = np.arange(0.0, max(seconds - self.window_s, 0.0) + 1e-9, offset)
        return times, torch.tensor([reference.position_at(float(time) + offset) for time in times])

    def _measure(self, clips: Tensor, rate: int, times: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 2, S) to (N, E) delay in s (left after right), level in dB (right minus left) and energy per window."""
        length, last = round(self.window_s * rate), clips.shape[-1] - 1
        starts = np.rint(times.astype(np.float32) * rate).astype(int).clip(0, last)
        windows = torch.stack([_stretch(clips, start, length) for start in starts.tolist()], dim=2)
        power = windows.square().sum(-1) + 1e-10
        level = 10 * torch.log10(power[:, 1] / power[:, 0])
        size = transform_size(length, 2 * self.delay_s * rate)
        spectrum = torch.fft.rfft(windows, n=size)
        low, high = (int(min(hz / rate, 0.5) * size) for hz in (self.lowest_hz, self.highest_hz))
        left, right = spectrum[..., low : high + 1].unbind(1)
        reach = int(1.25 * self.delay_s * rate * UPSAMPLE) + 1
        delay = peak(correlation(left, right, low, size, reach, self.whitening)) / (UPSAMPLE * rate)
        return delay, level, power.sum(1)

    def _details(
        self, reference: Reference, times: np.ndarray, seen: Tensor, delay: Tensor, level: Tensor, weights: Tensor
    ) -> list[dict[str, Any]]:
        heard = 0.5 * (delay / self.delay_s + level / self.level_db)
        share = weights / weights.amax(1, keepdim=True).clamp_min(1e-20)
        rows = []
        for index in range(len(delay)):
            windows = [
                {
                    "time_s": round(float(times[e]), 3),
                    "delay_ms": round(1000 * float(delay[index, e]), 3),
                    "level_db": round(float(level[index, e]), 2),
                    "heard_position": round(float(heard[index, e]), 3),
                    "seen_position": round(float(seen[e]), 3),
                    "weight": round(float(share[index, e]), 3),
                }
                for e in range(len(times))
            ]
            rows.append({"basis": basis(reference), "windows": windows})
        return rows


def _stretch(clips: Tensor, start: int, length: int) -> Tensor:
    """(N, 2, length) samples from `start` on; past the end the last one is held."""
    piece = clips[..., start : start + length]
    missing = length - piece.shape[-1]
    return torch.cat([piece, clips[..., -1:].expand(-1, -1, missing)], dim=-1) if missing else piece


def basis(reference: Reference) -> str:
    """What the place was judged against, in words."""
    place = "true positions" if reference.origin.get("positions") == "truth" else "positions seen in the picture"
    return f"{place}, {'at the impacts' if reference.events else 'over the whole clip, weighted by loudness'}"
