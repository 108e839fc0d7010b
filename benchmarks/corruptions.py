"""Faults put into a sound that a reward must prefer the original to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SHIFTS_MS = (100, 200, 500)
OVERLOAD_DB = 12.0
NOISE_DB = (15.0, 5.0)
QUIET_DB = -60.0

Corrupt = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """A fault. concerns: the dimensions that must notice it. apply: (2, S) sound and its rate in Hz to (2, S)."""

    name: str
    concerns: tuple[str, ...]
    apply: Corrupt


def shifted(milliseconds: float) -> Corrupt:
    """Later (earlier when negative); the gap is silent, what leaves the clip is lost."""

    def apply(sound: np.ndarray, rate: int) -> np.ndarray:
        by = round(milliseconds * rate / 1000)
        out = np.zeros_like(sound)
        if by >= 0:
            out[:, by:] = sound[:, : sound.shape[1] - by]
        else:
            out[:, :by] = sound[:, -by:]
        return out

    return apply


def clipped(sound: np.ndarray, rate: int) -> np.ndarray:
    """The peak driven to 12 dB above full scale, and cut there."""
    gain = 10 ** (OVERLOAD_DB / 20) / max(float(np.abs(sound).max()), 1e-9)
    return np.clip(gain * sound, -1, 1)


def noisy(snr_db: float) -> Corrupt:
    """White noise of its own in each channel, so far below the sound's RMS."""

    def apply(sound: np.ndarray, rate: int) -> np.ndarray:
        level = np.sqrt(np.mean(sound**2)) * 10 ** (-snr_db / 20)
        return sound + level * np.random.default_rng(0).standard_normal(sound.shape)

    return apply


def mono(sound: np.ndarray, rate: int) -> np.ndarray:
    """Both channels the mean."""
    return np.broadcast_to(sound.mean(axis=0), sound.shape)


ALL = (
    *(
        Corruption(f"shifted {sign * ms:+d} ms".replace("-", "−"), ("temporal",), shifted(sign * ms))
        for ms in SHIFTS_MS
        for sign in (1, -1)
    ),
    Corruption("swapped channels", ("spatial",), lambda sound, rate: sound[::-1]),
    Corruption("mono", ("spatial",), mono),
    Corruption("clipped, 12 dB", ("aesthetic",), clipped),
    *(Corruption(f"noise, {db:.0f} dB SNR", ("semantic", "aesthetic"), noisy(db)) for db in NOISE_DB),
    Corruption(
        f"{QUIET_DB:.0f} dB".replace("-", "−"), ("aesthetic",), lambda sound, rate: sound * 10 ** (QUIET_DB / 20)
    ),
    Corruption("silence", ("semantic", "temporal", "aesthetic", "spatial"), lambda sound, rate: np.zeros_like(sound)),
)
OTHER = Corruption("another clip's sound", ("semantic", "temporal"), lambda sound, rate: sound)
"""Its sound is given from outside (`corrupted`)."""


def corrupted(sound: np.ndarray, rate: int, other: np.ndarray) -> dict[str, np.ndarray]:
    """Every fault of a (2, S) sound at `rate` Hz by name, float32; the other clip's sound is repeated to its length."""
    found = {corruption.name: corruption.apply(sound, rate) for corruption in ALL}
    found[OTHER.name] = np.resize(other.T, sound.T.shape).T
    return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def concerning(dimension: str) -> tuple[str, ...]:
    """Names of the faults that a dimension must notice."""
    return tuple(c.name for c in (*ALL, OTHER) if dimension in c.concerns)


def others(labels: Sequence[str]) -> list[int]:
    """For each clip the next one of another label; the next of all where every label is the same."""
    count = len(labels)
    found = []
    for here in range(count):
        after = [(here + k) % count for k in range(1, count)]
        found.append(next((k for k in after if labels[k] != labels[here]), after[0] if after else here))
    return found
