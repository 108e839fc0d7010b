"""Sounds with known places, and wav files of them to refer to."""

from pathlib import Path

import numpy as np
import soundfile

from rewards_service.scores import Reference
from scenes.sound import SAMPLE_RATE as RATE
from scenes.sound import normalise, place
from scenes.world import SECONDS, Scene, make_scene, scene_seed


def shifted(sound: np.ndarray, later_ms: float) -> np.ndarray:
    """(S,) delayed by a fraction of samples, around the end."""
    spectrum = np.fft.rfft(sound) * np.exp(-2e-3j * np.pi * np.fft.rfftfreq(len(sound), 1 / RATE) * later_ms)
    return np.fft.irfft(spectrum, len(sound)).astype(np.float32)


def panned(sound: np.ndarray, later_ms: float, louder_db: float) -> np.ndarray:
    """(S,) to (2, S): the right channel lags by `later_ms` and is `louder_db` louder."""
    sides = [shifted(sound, side * later_ms / 2) * 10 ** (side * louder_db / 40) for side in (-1, 1)]
    return np.stack(sides).astype(np.float32)


def moving(seed: int = 0, seconds: float = 4.0, later_ms: float = 0.3, louder_db: float = 6.0) -> np.ndarray:
    """(2, S) of coloured noise that goes from the left to the right, with a diffuse room 18 dB below."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.normal(0, 0.1, count)) / (1 + np.fft.rfftfreq(count, 1 / RATE) / 1000)
    dry = np.fft.irfft(spectrum, count).astype(np.float32)
    where = np.linspace(0, 1, count, dtype=np.float32)
    # Left: the right channel is late and soft. Right: the left one is.
    both = (1 - where) * panned(dry, later_ms, -louder_db) + where * panned(dry, -later_ms, louder_db)
    room = np.fft.irfft(np.fft.rfft(rng.normal(size=both.shape)) / (1 + np.fft.rfftfreq(count, 1 / RATE) / 1000))
    return (both + 10 ** (-18 / 20) * both.std() / room.std() * room).astype(np.float32)


def mono(sound: np.ndarray) -> np.ndarray:
    """Both channels' mean in both, of (..., 2, S)."""
    return np.repeat(sound.mean(-2, keepdims=True), 2, axis=-2)


def reference(folder: Path, name: str, sound: np.ndarray, start: float = 0.0, rate: int = RATE) -> Reference:
    """What is known of a clip that begins at `start` of a file with this (2, S) sound, and nothing else."""
    path = folder / f"{name}.wav"
    lead = np.random.default_rng(9).normal(0, 0.1, (2, round(start * rate))).astype(np.float32)
    soundfile.write(path, np.concatenate([lead, sound], axis=1).T, rate, subtype="FLOAT")
    return Reference(name, "", sound.shape[1] / rate, (), (), 1.0, uri=str(path), start=start)


def scene(index: int) -> Scene:
    """One of a split of its own."""
    return make_scene(scene_seed("stereo", 0, index))


def as_material(made: Scene, material: int, variant: int) -> np.ndarray:
    """(2, S) sound of a scene's impacts at their places, of another material."""
    events = np.array(made.events)
    return normalise(place(events, np.array(made.loudness), made.position(events), material, variant))


def positions(made: Scene, fps: float = 16.0) -> tuple[float, ...]:
    """Places on screen, frame by frame."""
    return tuple(float(x) for x in made.position(np.arange(round(SECONDS * fps)) / fps))
