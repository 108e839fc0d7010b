"""From (G, N, 2, S) waveforms to one flat batch and back to scores, with the rules every dimension shares."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from rewards_service.errors import RewardError
from rewards_service.scores import Reference, Scores

SILENCE_DB = -60.0
SHORTEST_S = 0.05


@dataclass(frozen=True)
class Batch:
    """B = G * N samples, prompt-major.

    audio: (B, 2, S) float32, zeros where `finite` is False; the caller's memory, not to be written to.
    rms_db: (B,) level over both channels in dBFS. finite: (B,) whether the sample held numbers only.
    silent: (B,) whether it lies below -60 dBFS RMS.
    """

    audio: Tensor
    sample_rate: int
    groups: int
    members: int
    rms_db: Tensor
    finite: Tensor
    silent: Tensor

    @property
    def seconds(self) -> float:
        """Length of every sample in seconds."""
        return self.audio.shape[-1] / self.sample_rate

    def expand(self, per_group: Tensor) -> Tensor:
        """(G, ...) values of each prompt to (B, ...) values of each sample."""
        return per_group.repeat_interleave(self.members, dim=0)


def prepare(waveforms: np.ndarray, sample_rate: int, references: list[Reference], rate: int | None = None) -> Batch:
    """Check (G, N, 2, S) waveforms against G references and lay them out as a batch, resampled to `rate` if given.

    Raises RewardError for another shape, for another number of references or for less than 50 ms of sound.
    """
    x = np.asarray(waveforms, dtype=np.float32)
    if x.ndim != 4 or x.shape[2] != 2:
        raise RewardError(f"Rewards take waveforms of shape (groups, members, 2, samples); got {x.shape}.")
    if len(references) != x.shape[0]:
        raise RewardError(f"Rewards need one reference a group: {x.shape[0]} groups, {len(references)} references.")
    if x.shape[-1] < SHORTEST_S * sample_rate:
        raise RewardError(
            f"Rewards need at least {SHORTEST_S} s of sound; got {x.shape[-1]} samples at {sample_rate} Hz."
        )
    groups, members = x.shape[:2]
    audio = _borrowed(np.ascontiguousarray(x).reshape(groups * members, 2, -1))
    rms = torch.linalg.vector_norm(audio.flatten(1), dim=1) / np.sqrt(2 * audio.shape[-1])
    finite = torch.isfinite(rms)
    if not finite.all():
        audio = torch.where(finite[:, None, None], audio, audio.new_zeros(()))
        rms = torch.where(finite, rms, rms.new_zeros(()))
    rms_db = 20 * torch.log10(rms.clamp_min(1e-9))
    if rate is not None and rate != sample_rate:
        audio, sample_rate = resample(audio, sample_rate, rate), rate
    return Batch(audio, sample_rate, groups, members, rms_db, finite, finite & (rms_db < SILENCE_DB))


def _borrowed(x: np.ndarray) -> Tensor:
    """A view of an array, read-only ones from the object store included: fresh memory costs more than a measurement.

    Matrix products round differently at other addresses, so scorers multiply only what they have computed themselves.
    """
    try:
        return torch.from_dlpack(x)
    except BufferError:  # numpy before 2.1 does not lend read-only arrays
        return torch.tensor(x)


def resample(audio: Tensor, sample_rate: int, rate: int) -> Tensor:
    """(B, C, S) at `sample_rate` to (B, C, S * rate / sample_rate) at `rate` (Hz)."""
    batch, channels, samples = audio.shape
    flat = audio.reshape(batch * channels, samples).numpy()
    out = [soxr.resample(row, sample_rate, rate) for row in flat]
    return torch.tensor(np.stack(out)).view(batch, channels, -1)


def finish(
    batch: Batch,
    values: Tensor,
    measured: list[dict[str, Any]] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    silence: float | None = None,
    gated: dict[int, str] | None = None,
    missing: dict[tuple[int, int], str] | None = None,
) -> Scores:
    """Scores out of (B,) values: clamped to the bounds, `silence` (the lower bound) for silent samples.

    Missing are samples that were no numbers, values that are none, and those that are `missing` already, with its
    reason. gated: see `Scores`.
    """
    low, high = bounds
    quiet = low if silence is None else silence
    values = torch.where(batch.silent, quiet, values.detach().cpu().double().clamp(low, high))
    values = torch.where(batch.finite, values, torch.nan)
    array = values.view(batch.groups, batch.members).numpy()
    lost = np.argwhere(~batch.finite.view(batch.groups, batch.members).numpy())
    reasons = {(int(g), int(n)): "the waveform holds NaN, Inf or absurdly large values" for g, n in lost}
    reasons |= missing or {}
    gated = gated or {}
    array[list(gated)] = np.nan
    for at in reasons:
        array[at] = np.nan
    for g, n in np.argwhere(np.isnan(array)):
        reasons.setdefault((int(g), int(n)), "the measurement is undefined for this sound")
    reasons = {at: why for at, why in reasons.items() if at[0] not in gated}
    if measured is None:
        return Scores(array, reasons, gated=gated)
    for item, level, silent in zip(measured, batch.rms_db.tolist(), batch.silent.tolist(), strict=True):
        item["rms_db"] = round(level, 2)
        item["silent"] = silent
    nested = [measured[g * batch.members : (g + 1) * batch.members] for g in range(batch.groups)]
    return Scores(array, reasons, nested, gated)
