"""The clean stereo sound of a scene: one struck resonance per impact, placed by delay and level."""

from functools import cache

import numpy as np

from scenes.materials import MATERIALS
from scenes.world import SECONDS, Scene

SAMPLE_RATE = 16_000
DELAY_SAMPLES = 10.0  # interaural delay at the edge of the picture: left lags by this when the object is far right
LEVEL_DB = 12.0  # interaural level difference at the edge of the picture, louder on the object's side
VARIANTS = 5
TARGET_RMS_DB = -24.0


@cache
def impact(material_index: int, variant: int) -> np.ndarray:
    """One impact (S,) of a material, unit energy, 0.4 s."""
    material = MATERIALS[material_index]
    rng = np.random.default_rng([7, material_index, variant])
    t = np.arange(int(0.4 * SAMPLE_RATE)) / SAMPLE_RATE
    detune = 1 + rng.uniform(-0.04, 0.04)
    tone = np.zeros_like(t)
    for frequency, amplitude, decay in material.modes:
        phase = rng.uniform(0, 2 * np.pi)
        tone += (
            amplitude
            * np.sin(2 * np.pi * frequency * detune * t + phase)
            * np.exp(-t / (decay * rng.uniform(0.85, 1.15)))
        )
    low, high, level, decay = material.noise
    spectrum = np.fft.rfft(rng.standard_normal(len(t)))
    bins = np.fft.rfftfreq(len(t), 1 / SAMPLE_RATE)
    burst = np.fft.irfft(spectrum * ((bins >= low) & (bins <= high)), len(t)) * np.exp(-t / decay)
    burst /= np.abs(burst).max()
    sound = (tone + 2.0 * level * burst) * np.minimum(1, t / 0.0015)
    sound *= np.minimum(1, (t[-1] - t) / 0.02)
    return (sound / np.sqrt(np.sum(sound**2))).astype(np.float32)


def _add_delayed(channel: np.ndarray, sound: np.ndarray, at: float) -> None:
    """Add `sound` at a fractional sample position (linear interpolation), cut at both ends."""
    whole = int(np.floor(at))
    fraction = np.float32(at - whole)
    shifted = np.zeros(len(sound) + 1, np.float32)
    shifted[:-1] += (1 - fraction) * sound
    shifted[1:] += fraction * sound
    begin, end = max(whole, 0), min(whole + len(shifted), len(channel))
    if end > begin:
        channel[begin:end] += shifted[begin - whole : end - whole]


def place(events: np.ndarray, gains: np.ndarray, pans: np.ndarray, material_index: int, variant: int) -> np.ndarray:
    """Stereo (2, S) float32 of impacts at `events` (s) with linear gains, panned to `pans` in [-1, 1]."""
    out = np.zeros((2, int(SECONDS * SAMPLE_RATE)), np.float32)
    sound = impact(material_index, variant)
    for event, gain, pan in zip(events, gains, pans, strict=True):
        for channel, side in ((0, -1.0), (1, 1.0)):
            level = np.float32(gain * 10 ** (side * pan * LEVEL_DB / 40))
            _add_delayed(out[channel], level * sound, event * SAMPLE_RATE - side * pan * DELAY_SAMPLES / 2)
    return out


def normalise(waveform: np.ndarray, rms_db: float = TARGET_RMS_DB) -> np.ndarray:
    """Scale to an RMS level in dBFS, kept below full scale; silence stays silent."""
    rms = np.sqrt(np.mean(waveform**2)) + 1e-9
    gain = min(10 ** (rms_db / 20) / rms, 0.98 / (np.abs(waveform).max() + 1e-9))
    return (waveform * gain).astype(np.float32)


def render(scene: Scene) -> np.ndarray:
    """Clean sound (2, S) float32 at SAMPLE_RATE Hz."""
    rng = np.random.default_rng([scene.seed, 2])
    events = np.array(scene.events)
    sound = place(
        events, np.array(scene.loudness), scene.position(events), scene.material_index, int(rng.integers(VARIANTS))
    )
    return normalise(sound) + rng.normal(0, 3e-4, sound.shape).astype(np.float32)
