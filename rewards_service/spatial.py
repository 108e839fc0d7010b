"""Spatial reward: does the sound come from where the object is seen?

In a window after every visible impact the delay between the channels (generalised cross-correlation) and their level
difference are turned into a place on screen and compared with the object's place at that time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from rewards_service.batch import Batch, finish, prepare
from rewards_service.scores import Reference, Scores

LEAD_S = 0.01
UPSAMPLE = 4


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
    name: str = "spatial"

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms; without impacts the loud parts of the whole clip are judged."""
        batch = prepare(waveforms, sample_rate, references)
        times, used, target = self._windows(batch, references)
        delay, level, energy = self._measure(batch, times)
        seen = batch.expand(target)
        by_delay, by_level = delay / self.delay_s, level / self.level_db
        match = 0.5 * (self._match(by_delay, seen) + self._match(by_level, seen))
        weights = energy.sqrt() * batch.expand(used)
        values = (match * weights).sum(1) / weights.sum(1).clamp_min(1e-20)
        measured = self._details(batch, references, times, used, seen, delay, level, weights) if detail else None
        return finish(batch, values, measured)

    def _match(self, measured: Tensor, seen: Tensor) -> Tensor:
        return torch.exp(-(measured - seen).abs() / self.softness)

    def _windows(self, batch: Batch, references: list[Reference]) -> tuple[Tensor, Tensor, Tensor]:
        """(G, E) start times in s, which of them count, and the place seen in the middle of each."""
        even = np.arange(0.0, max(batch.seconds - self.window_s, 0.0) + 1e-9, self.window_s / 2)
        rows = [np.clip(np.array(r.events) - LEAD_S, 0, None) if r.events else even for r in references]
        count = max(len(row) for row in rows)
        times = np.zeros((len(rows), count), np.float32)
        used, target = np.zeros_like(times), np.zeros_like(times)
        for g, (row, reference) in enumerate(zip(rows, references, strict=True)):
            times[g, : len(row)] = row
            used[g, : len(row)] = 1.0
            offset = LEAD_S if reference.events else self.window_s / 2
            target[g, : len(row)] = [reference.position_at(float(t) + offset) for t in row]
        return torch.tensor(times), torch.tensor(used), torch.tensor(target)

    def _measure(self, batch: Batch, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, E) delay in s (left after right), level difference in dB (right minus left) and energy per window."""
        rate, length = batch.sample_rate, round(self.window_s * batch.sample_rate)
        starts = (times * rate).round().long().clamp(0, max(batch.audio.shape[-1] - 1, 0))
        index = (starts[..., None] + torch.arange(length)).clamp_max(batch.audio.shape[-1] - 1)
        per_group = batch.audio.view(batch.groups, batch.members, 2, -1)
        windows = torch.stack(
            [clip[..., i.flatten()].unflatten(-1, i.shape) for clip, i in zip(per_group, index, strict=True)]
        ).flatten(0, 1)
        power = windows.square().sum(-1) + 1e-10
        level = 10 * torch.log10(power[:, 1] / power[:, 0])
        size = int(next_fast_len(length + round(2 * self.delay_s * rate), real=True) or length)
        spectrum = torch.fft.rfft(windows, n=size)
        first, last = (int(min(hz / rate, 0.5) * size) for hz in (self.lowest_hz, self.highest_hz))
        spectrum = spectrum[..., first : last + 1]
        cross = spectrum[:, 0] * spectrum[:, 1].conj()
        cross = cross * cross.abs().clamp_min_(1e-12).pow_(-self.whitening)
        return self._delay(cross, first, size, rate), level, power.sum(1)

    def _delay(self, cross: Tensor, first: int, size: int, rate: int) -> Tensor:
        """(B, E, K) cross spectra from bin `first` on to the (B, E) best delay in s within 1.25 `delay_s`."""
        reach = int(1.25 * self.delay_s * rate * UPSAMPLE) + 1
        lags = torch.arange(-reach, reach + 1) / UPSAMPLE
        angle = torch.outer(first + torch.arange(cross.shape[-1]), lags) * (2 * torch.pi / size)
        basis = torch.stack([angle.cos(), -angle.sin()], dim=1).flatten(0, 1)
        correlation = torch.view_as_real(cross).flatten(-2) @ basis
        best = correlation.argmax(-1).clamp(1, len(lags) - 2)
        left, mid, right = (correlation.gather(-1, (best + k)[..., None])[..., 0] for k in (-1, 0, 1))
        bend = (left - 2 * mid + right).clamp_max(-1e-20)
        shift = (0.5 * (left - right) / bend).clamp(-1, 1)
        return (lags[best] + shift / UPSAMPLE) / rate

    def _details(
        self,
        batch: Batch,
        references: list[Reference],
        times: Tensor,
        used: Tensor,
        seen: Tensor,
        delay: Tensor,
        level: Tensor,
        weights: Tensor,
    ) -> list[dict[str, Any]]:
        rows = []
        for index in range(batch.groups * batch.members):
            group = index // batch.members
            loudest = float(weights[index].max())
            windows = [
                {
                    "time_s": round(float(times[group, e]), 3),
                    "delay_ms": round(1000 * float(delay[index, e]), 3),
                    "level_db": round(float(level[index, e]), 2),
                    "heard_position": round(
                        float(0.5 * (delay[index, e] / self.delay_s + level[index, e] / self.level_db)), 3
                    ),
                    "seen_position": round(float(seen[index, e]), 3),
                    "weight": round(float(weights[index, e]) / max(loudest, 1e-20), 3),
                }
                for e in range(times.shape[1])
                if used[group, e] > 0
            ]
            rows.append({"basis": basis(references[group]), "windows": windows})
        return rows


def basis(reference: Reference) -> str:
    """What the place was judged against, in words."""
    place = "true positions" if reference.origin.get("positions") == "truth" else "positions seen in the picture"
    return f"{place}, {'at the impacts' if reference.events else 'over the whole clip, weighted by loudness'}"
