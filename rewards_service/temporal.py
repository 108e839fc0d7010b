"""Temporal reward: do the sound's onsets fall on the visible impacts?

The onset strength (rise of log band levels, 10 ms hop) is smoothed and compared by cosine with the same bell at every
impact, so that early, late, left out and additional onsets all cost, smoothly.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import Batch, finish, prepare
from rewards_service.errors import RewardError
from rewards_service.scores import Reference, Scores
from rewards_service.spectra import band_power, decibels, mel_filters

RATE = 16000
HOP = 160
WINDOW = 256
STEADY_DB = 3.0
OFFSETS_S = np.linspace(-2, 2, 21)
"""What Synchformer's classes stand for."""


@dataclass(frozen=True)
class TemporalScorer:
    """Cosine of onset strength with impacts.

    tolerance_s: width (standard deviation, s) of the bell around an impact; an onset off by d scores exp(-d^2 / 4 w^2).
    range_db: band levels further than this below the loudest band are taken as silence.
    prominence_db: a sound whose strongest onset is weaker than this is marked down in proportion (noise has no onsets).
    pick_db: smallest onset strength that is listed as an onset in the details.
    """

    tolerance_s: float = 0.035
    range_db: float = 50.0
    bands: int = 24
    prominence_db: float = 6.0
    pick_db: float = 3.0

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms; a clip without visible impacts is scored by how steady its sound is."""
        batch = prepare(waveforms, sample_rate, references, RATE)
        strength = self.onset_strength(batch.audio)
        smooth = smoothed(strength, self.tolerance_s)
        target = self._targets(references, strength.shape[1])
        likeness = torch.nn.functional.cosine_similarity(smooth, batch.expand(target), dim=1, eps=1e-6)
        values = likeness * (strength.amax(1) / self.prominence_db).clamp_max(1.0)
        eventful = torch.tensor([len(r.events) > 0 for r in references])
        if not eventful.all():
            values = torch.where(batch.expand(eventful), values, self._steadiness(strength))
        measured = self._details(batch, strength, references) if detail else None
        return finish(batch, values, measured)

    def onset_strength(self, audio: Tensor) -> Tensor:
        """(B, 2, S) at 16 kHz to (B, F) mean rise of the band levels per frame in dB, less its median."""
        power = band_power(audio, WINDOW, HOP, self._filters)
        loudest = power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        levels = decibels(power, loudest * 10 ** (-self.range_db / 10))
        rise = (levels[:, 1:] - levels[:, :-1]).clamp_min_(0).mean(-1)
        rise[:, -1] = 0  # the last frame is half mirror image, and a mirrored tone has a kink
        rise = torch.nn.functional.pad(rise, (1, 0))
        return (rise - rise.median(dim=1, keepdim=True).values).clamp_min_(0)

    @cached_property
    def _filters(self) -> Tensor:
        return mel_filters(self.bands, WINDOW, RATE, 80.0, 7600.0)

    def _targets(self, references: list[Reference], frames: int) -> Tensor:
        """(G, F) sum of bells at the impacts, on the time axis of `onset_strength`."""
        events = torch.tensor([event for reference in references for event in reference.events])
        owners = torch.tensor([g for g, r in enumerate(references) for _ in r.events], dtype=torch.long)
        bells = _bell(onset_times(frames) - events[:, None], self.tolerance_s)
        return torch.zeros(len(references), frames).index_add_(0, owners, bells)

    def _steadiness(self, strength: Tensor) -> Tensor:
        """(B,) 1 for a sound without onsets, 0 for one made of them: soft share of frames' strength below 3 dB."""
        return STEADY_DB / (STEADY_DB + strength.amax(1))

    def _details(self, batch: Batch, strength: Tensor, references: list[Reference]) -> list[dict[str, Any]]:
        times = onset_times(strength.shape[1]).numpy()
        rows = []
        for index, row in enumerate(strength.numpy()):
            reference = references[index // batch.members]
            found = pick_onsets(row, times, self.pick_db) if not batch.silent[index] else []
            nearest = [min(found, key=lambda t, e=e: abs(t - e)) - e for e in reference.events] if found else []
            rows.append(
                {
                    "basis": basis(reference),
                    "onsets_s": [round(t, 3) for t in found],
                    "events_s": [round(float(e), 3) for e in reference.events],
                    "offsets_ms": [round(1000 * d, 1) for d in nearest],
                }
            )
        return rows


def _bell(distance: Tensor, width: float) -> Tensor:
    return torch.exp(-0.5 * (distance / width) ** 2)


def smoothed(strength: Tensor, width: float) -> Tensor:
    """(B, F) onset strengths with every frame spread over a bell of `width` seconds."""
    return strength @ _smoothing(strength.shape[1], width)


@lru_cache(maxsize=4)
def _smoothing(frames: int, width: float) -> Tensor:
    """(F, F): row i is the bell of `width` seconds around frame i."""
    times = torch.arange(frames) * (HOP / RATE)
    return _bell(times - times[:, None], width)


def onset_times(frames: int) -> Tensor:
    """(F,) time in seconds at which an onset that shows in a frame began."""
    return (torch.arange(frames) - 0.3) * (HOP / RATE)


def pick_onsets(strength: np.ndarray, times: np.ndarray, least: float, gap: int = 6) -> list[float]:
    """Times of the local maxima of (F,) strength above `least` and a quarter of the largest, `gap` frames apart."""
    threshold = max(least, 0.25 * float(strength.max(initial=0.0)))
    order = [int(i) for i in np.argsort(strength)[::-1] if strength[i] >= threshold]
    kept: list[int] = []
    for i in order:
        if all(abs(i - k) >= gap for k in kept):
            kept.append(i)
    out = []
    for i in sorted(kept):
        near = slice(max(i - 1, 0), i + 2)
        out.append(float(np.average(times[near], weights=strength[near])))
    return out


def basis(reference: Reference) -> str:
    """What the timing was judged against, in words."""
    if not reference.events:
        return "no visible impacts: steadiness of the sound"
    return "true impact times" if reference.origin.get("events") == "truth" else "impacts seen in the picture"


def expected_offset(logits: Any) -> np.ndarray:
    """(..., 21) logits of Synchformer over offsets from -2 to 2 s to (...,) expected |offset| in s under their softmax.

    Here and below: arrays, tensors on any device or nested lists, computed in float64; rows with NaN or infinity give
    NaN. Raises RewardError for another number of classes.
    """
    return (_softmax(_rows(logits)) * np.abs(OFFSETS_S)).sum(-1)


def signed_offset(logits: Any) -> np.ndarray:
    """(..., 21) logits to (...,) expected offset in s; positive when the sound begins earlier than it should."""
    return (_softmax(_rows(logits)) * OFFSETS_S).sum(-1)


def likeliest_offset(logits: Any) -> np.ndarray:
    """(..., 21) logits to (...,) the likeliest offset in s; of equal ones the lowest, as torch's and numpy's argmax."""
    rows = _rows(logits)
    return np.where(np.isnan(rows[..., 0]), np.nan, OFFSETS_S[rows.argmax(-1)])


def desync(logits_first: Any, logits_last: Any) -> float:
    """DeSync in s: mean over clips and both windows of |likeliest offset|, of (B, 21) logits each.

    Source: hkchengrex/av-benchmark av_bench/evaluate.py. Raises RewardError also when the two are not of equally many
    clips, or of none.
    """
    first, last = np.abs(likeliest_offset(logits_first)), np.abs(likeliest_offset(logits_last))
    if first.shape != last.shape or not first.size:
        raise RewardError(f"DeSync needs both windows of at least one clip, got shapes {first.shape} and {last.shape}.")
    return float((first.mean() + last.mean()) / 2)


def official_reward(logits: Any) -> np.ndarray:
    """(..., 21) logits to (...,) rewards of the released code: (2 - |likeliest offset|) / 4, 0 to 0.5 in steps of 0.05.

    Source: FunAudioLLM/ThinkSound, branch prismaudio, grpo/fast_grpo/reward_synch.py.
    """
    return (2 - np.abs(likeliest_offset(logits))) / 4


def reward(logits_first: Any, logits_last: Any) -> np.ndarray:
    """(..., 21) logits of both windows to (...,) rewards: 1 - E|offset| / 2, in 0..1, mean over the two.

    Smooth where the released one has eleven values, and the end of the clip counts as well as its beginning.
    """
    return 1 - (expected_offset(logits_first) + expected_offset(logits_last)) / 4


def _rows(logits: Any) -> np.ndarray:
    """(..., 21) float64, all NaN where a row is not finite."""
    if isinstance(logits, Tensor):
        logits = logits.detach().cpu().double().numpy()
    rows = np.asarray(logits, np.float64)
    if rows.ndim < 1 or rows.shape[-1] != len(OFFSETS_S):
        raise RewardError(
            f"Logits over offsets have {len(OFFSETS_S)} classes in their last axis; got the shape {rows.shape}."
        )
    return np.where(np.isfinite(rows).all(-1, keepdims=True), rows, np.nan)


def _softmax(rows: np.ndarray) -> np.ndarray:
    weights = np.exp(rows - rows.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
