"""Measures that are not rewarded: they rise only when the sound really got better.

They share no code with the scorers: onsets are rises in decibels per octave band (the temporal reward correlates an
onset envelope), delays come from a plain cross-correlation of differentiated signals (the spatial reward uses a
compressed cross spectrum), the class comes from a judge that trained nothing, and the distance compares with the
scene's own clean sound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import find_peaks

from evaluation.spectra import log_mel, octave_levels
from evaluation.statistics import Estimate, jackknife, mean_estimate, pearson
from rewards_service.scores import Reference
from settings import PrismError

Classify = Callable[[np.ndarray, int], Sequence[str]]

ONSET_TOLERANCE = 0.07
PAN_WINDOW = (-0.005, 0.1)
MAX_DELAY_MS = 1.0
AUDIBLE_DBFS = -50.0


@dataclass(frozen=True)
class EventPan:
    """Stereo cues of one event at `time` s and a position in -1..1.

    level_db: right over left. delay_ms: positive when the left channel lags, that is, when the source is on the right.
    """

    time: float
    position: float
    level_db: float
    delay_ms: float


@dataclass(frozen=True)
class Measures:
    """Aggregates over scenes; a measure whose input was not given is absent.

    values: name -> Estimate. scenes: name -> per-scene numbers (NaN where a scene has none), for paired tests.
    events, audible: how many reference events there were, and how many carried enough sound to measure their place.
    """

    values: dict[str, Estimate]
    scenes: dict[str, np.ndarray] = field(default_factory=dict)
    events: int = 0
    audible: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; an undefined mean is null."""
        return {name: value.as_dict() for name, value in self.values.items()} | {
            "events": self.events,
            "audible_events": self.audible,
        }


def onsets(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Onset times in seconds of a (2, S) waveform, ascending; empty for silence.

    A rise over 20 ms, averaged over octave bands that stand above their own noise floor, is an onset when it is a local
    peak, at least 3 dB, at least a quarter of the clip's largest rise, and 90 ms away from a larger one.
    """
    hop = max(1, round(0.004 * rate))
    levels = octave_levels(waveform, rate, window=round(0.016 * rate), hop=hop)
    if levels is None:
        return np.empty(0)
    lag = max(1, round(0.02 * rate / hop))
    padded = np.pad(levels, ((0, 0), (lag, 0)))
    rise = np.maximum(padded[:, lag:] - padded[:, :-lag], 0.0).mean(axis=0)
    rise = rise[: len(rise) - lag]  # a sound that the end of the clip cuts off splashes over all bands
    peaks = _separated_peaks(rise, max(3.0, rise.max() / 4), round(0.09 * rate / hop))
    # Half a spectral window looks ahead, so the largest rise is centred only a fifth of the lag after the contact.
    return np.maximum(0.0, (peaks - lag / 5) * hop / rate)


def _separated_peaks(curve: np.ndarray, height: float, distance: int) -> np.ndarray:
    """Local maxima above `height`, none within `distance` of a larger one; plateaus count by their middle."""
    padded = np.pad(curve, 1, constant_values=-1.0)
    return find_peaks(padded, height=height, distance=max(1, distance))[0] - 1


def match_count(found: Sequence[float] | np.ndarray, events: Sequence[float] | np.ndarray, tolerance: float) -> int:
    """Size of the largest one-to-one matching of two ascending time lists within `tolerance` seconds."""
    i = j = matched = 0
    while i < len(found) and j < len(events):
        gap = found[i] - events[j]
        if abs(gap) <= tolerance:
            matched, i, j = matched + 1, i + 1, j + 1
        elif gap < 0:
            i += 1
        else:
            j += 1
    return matched


def onset_f1(
    found: Sequence[float] | np.ndarray,
    events: Sequence[float] | np.ndarray,
    tolerance: float = ONSET_TOLERANCE,
) -> float:
    """F1 of onsets against events: 1 when both are empty, 0 when only one is."""
    if len(found) + len(events) == 0:
        return 1.0
    return 2 * match_count(np.sort(found), np.sort(events), tolerance) / (len(found) + len(events))


def level_difference(segment: np.ndarray) -> float:
    """Right over left power of a (2, S) segment in dB, limited to +-40."""
    left, right = np.square(segment, dtype=np.float64).mean(axis=1)
    return float(np.clip(10 * np.log10((right + 1e-12) / (left + 1e-12)), -40, 40))


def delay(segment: np.ndarray, rate: int, upsample: int = 8) -> float:
    """Delay in ms of the left channel behind the right one in a (2, S) segment, by band-limited cross-correlation."""
    sharp = np.diff(segment.astype(np.float32), axis=1)
    size = int(next_fast_len(2 * sharp.shape[1], real=True) or 0)
    left, right = np.asarray(rfft(sharp, size))
    correlation = np.asarray(irfft(left * right.conj(), size * upsample))
    reach = round(MAX_DELAY_MS * 1e-3 * rate * upsample)
    lags = np.arange(-reach, reach + 1)
    return float(lags[int(np.argmax(correlation[lags]))] / (rate * upsample) * 1e3)


def event_pans(waveform: np.ndarray, rate: int, reference: Reference) -> list[EventPan]:
    """Stereo cues at every reference event that is louder than -50 dBFS; the others have no place to measure."""
    pans = []
    for time in reference.events:
        first, last = (round((time + edge) * rate) for edge in PAN_WINDOW)
        segment = waveform[:, max(0, first) : max(0, last)]
        if segment.shape[1] < 0.02 * rate or _rms_db(segment) < AUDIBLE_DBFS:
            continue
        pans.append(EventPan(time, reference.position_at(time), level_difference(segment), delay(segment, rate)))
    return pans


def _rms_db(segment: np.ndarray) -> float:
    return float(10 * np.log10(np.square(segment, dtype=np.float64).mean() + 1e-20))


def log_mel_distance(waveform: np.ndarray, clean: np.ndarray, rate: int) -> float:
    """Mean absolute log-mel difference in dB of two (2, S) waveforms, down to 40 dB under the clean peak."""
    length = min(waveform.shape[1], clean.shape[1])
    target = log_mel(clean[:, :length], rate)
    floor = target.max() - 40
    return float(np.abs(np.maximum(log_mel(waveform[:, :length], rate), floor) - np.maximum(target, floor)).mean())


def measure(
    waveforms: np.ndarray,
    rate: int,
    references: Sequence[Reference],
    *,
    clean: Sequence[np.ndarray] | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    classify: Classify | None = None,
) -> Measures:
    """All measures over B scenes.

    waveforms: (B, 2, S) float32 at `rate` Hz. clean: B waveforms of the same rate, for `log_mel_distance_db`.
    labels and classify: true classes and a judge mapping (B, 2, S) and a rate to B labels, for `class_top1`.
    Raises PrismError when counts disagree or a waveform is not finite.
    """
    _check(waveforms, references, clean, labels)
    scenes: dict[str, np.ndarray] = {}
    found = [onsets(w, rate) for w in waveforms]
    scenes["onset_f1"] = np.array([onset_f1(f, r.events) for f, r in zip(found, references, strict=True)])
    scenes["count_exact"] = np.array([float(len(f) == len(r.events)) for f, r in zip(found, references, strict=True)])
    if labels is not None and classify is not None:
        scenes["class_top1"] = np.array([float(a == b) for a, b in zip(classify(waveforms, rate), labels, strict=True)])
    if clean is not None:
        scenes["log_mel_distance_db"] = np.array(
            [log_mel_distance(w, c, rate) for w, c in zip(waveforms, clean, strict=True)]
        )
    pans = [event_pans(w, rate, r) for w, r in zip(waveforms, references, strict=True)]
    values = {name: mean_estimate(numbers) for name, numbers in scenes.items()}
    for name, cue in (("level_position_corr", "level_db"), ("delay_position_corr", "delay_ms")):
        pairs = [np.array([(p.position, getattr(p, cue)) for p in scene]).reshape(-1, 2) for scene in pans]
        values[name] = jackknife(pairs, pearson)
    return Measures(values, scenes, sum(len(r.events) for r in references), sum(map(len, pans)))


def _check(
    waveforms: np.ndarray,
    references: Sequence[Reference],
    clean: Sequence[np.ndarray] | np.ndarray | None,
    labels: Sequence[str] | None,
) -> None:
    if waveforms.ndim != 3 or waveforms.shape[1] != 2:
        raise PrismError(f"Measures need stereo waveforms of shape (scenes, 2, samples), got {waveforms.shape}.")
    for name, given in (("references", references), ("clean waveforms", clean), ("labels", labels)):
        if given is not None and len(given) != len(waveforms):
            raise PrismError(f"{len(waveforms)} waveforms came with {len(given)} {name}; give one for each.")
    broken = [r.clip_id for r, w in zip(references, waveforms, strict=True) if not np.isfinite(w).all()]
    if broken:
        raise PrismError(f"Waveforms of {', '.join(broken[:5])} hold NaN or infinite samples; they cannot be measured.")
