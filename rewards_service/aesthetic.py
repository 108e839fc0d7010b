"""Aesthetic reward: is it a clean recording? Noise floor, level, bandwidth, clipping and offset, all measured."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import Batch, finish, prepare
from rewards_service.scores import Reference, Scores
from rewards_service.spectra import power_frames

FRAME_S = 0.02
SPECTRUM_S = 0.032


@dataclass(frozen=True)
class AestheticScorer:
    """(.55 range + .3 level + .15 bandwidth) x (1 - clipping) x (1 - offset), each part in [0, 1].

    range_db: distance of the loud frames (95th percentile) from the noise floor (10th) that counts as fully clean.
    level_db: RMS level aimed at, dBFS. level_tolerance_db: distance at which the level part falls to 1/e.
    bandwidth_hz: from `narrow_hz` (0) to `wide_hz` (1) on a log axis; the band holds all but 1 % of the energy.
    clipping: share of the loud samples that are stuck at the ceiling; `clipped` of them cost a factor 1/e.
    """

    range_db: float = 45.0
    level_db: float = -24.0
    level_tolerance_db: float = 5.0
    narrow_hz: float = 150.0
    wide_hz: float = 2000.0
    clipped: float = 0.05

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms; the references matter only for their number."""
        batch = prepare(waveforms, sample_rate, references)
        loud, floor = self._levels(batch)
        bandwidth = self._bandwidth(batch)
        clipping, offset = self._clipping(batch), self._offset(batch)
        span = ((loud - floor) / self.range_db).clamp(0, 1)
        level = torch.exp(-(batch.rms_db - self.level_db).abs() / self.level_tolerance_db)
        width = torch.log(bandwidth.clamp_min(1.0) / self.narrow_hz) / np.log(self.wide_hz / self.narrow_hz)
        faults = torch.exp(-clipping / self.clipped) * (1 - offset).clamp_min(0)
        values = (0.55 * span + 0.3 * level + 0.15 * width.clamp(0, 1)) * faults
        measured = None
        if detail:
            columns = {
                "noise_floor_db": floor,
                "loud_db": loud,
                "clipping_share": clipping,
                "bandwidth_hz": bandwidth,
                "offset_share": offset,
            }
            measured = [
                {"basis": "recording quality", **{k: round(float(v[i]), 4) for k, v in columns.items()}}
                for i in range(len(batch.rms_db))
            ]
        return finish(batch, values, measured)

    def _levels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) 95th and 10th percentile of the level of 20 ms frames in dBFS, not below -90."""
        length = max(round(FRAME_S * batch.sample_rate), 1)
        whole = batch.audio.shape[-1] // length
        frames = batch.audio[..., : whole * length].unflatten(-1, (whole, length))
        power = torch.linalg.vector_norm(frames, dim=3).square().mean(1) / length
        ordered = (10 * torch.log10(power.clamp_min_(1e-9))).sort(dim=1).values
        last = ordered.shape[1] - 1
        return ordered[:, round(0.95 * last)], ordered[:, round(0.10 * last)]

    def _bandwidth(self, batch: Batch) -> Tensor:
        """(B,) frequency in Hz below which 99 % of the energy lies, less the spectrum of the quietest frames."""
        size = 2 ** round(np.log2(SPECTRUM_S * batch.sample_rate))
        edges = [self._edge(power) for power in power_frames(batch.audio, size, size)]
        return torch.cat(edges) * (batch.sample_rate / size)

    def _edge(self, power: Tensor) -> Tensor:
        """(B, F, K) power spectra to the (B,) bin that ends the band."""
        quiet = power.sum(2).topk(max(power.shape[1] // 10, 1), dim=1, largest=False).indices
        noise = power.gather(1, quiet[..., None].expand(-1, -1, power.shape[2])).mean(1)
        total = (power.mean(1) - 1.5 * noise).clamp_min_(0).cumsum(1)
        return (total < 0.99 * total[:, -1:]).sum(1)

    def _clipping(self, batch: Batch) -> Tensor:
        """(B,) share of the samples within 12 dB of the peak that are over full scale or stuck at the ceiling."""
        clips = batch.audio.flatten(1).numpy()
        # One clip at a time in numpy: it stays in the cache, and flags are compared and counted many times faster.
        return torch.tensor([_stuck(np.abs(clip), batch.audio.shape[-1]) for clip in clips])

    def _offset(self, batch: Batch) -> Tensor:
        """(B,) share of the RMS that is a constant offset."""
        mean = batch.audio.mean(-1).abs().amax(1)
        return mean / (10 ** (batch.rms_db / 20)).clamp_min(1e-9)


def _stuck(size: np.ndarray, channel: int) -> float:
    """Clipped share of one clip's magnitudes, (2 * channel,)."""
    peak = max(size.max(), np.float32(1e-9))
    top = np.flatnonzero(size >= min(0.985 * peak, np.float32(0.999)))
    pairs = top[:-1][(np.diff(top) == 1) & (top[1:] != channel)]
    stuck = np.count_nonzero(np.abs(size[pairs + 1] - size[pairs]) < 1e-3 * peak)
    over = np.count_nonzero(size >= 0.999) if peak >= 0.999 else 0
    return max(stuck, over) / max(np.count_nonzero(size > 0.25 * peak), 1)
