"""The deliberately imperfect sound that pre-training sees, so that post-training has something to gain.

Each fault hits one dimension: wrong class (semantic), jittered, dropped or invented impacts (temporal), noise and
level (aesthetic), mirrored or mono pan (spatial).
"""

from dataclasses import dataclass

import numpy as np

from scenes.materials import MATERIALS
from scenes.sound import VARIANTS, normalise, place
from scenes.world import SECONDS, Scene
from settings import Section


class CorruptionConfig(Section):
    """Probabilities and sizes of the faults."""

    wrong_class: float = 0.22
    jitter_s: float = 0.05
    shift_probability: float = 0.5
    shift_s: float = 0.08
    dropped: float = 0.12
    invented: float = 0.3
    mirrored: float = 0.10
    mono: float = 0.25
    noisy: float = 0.65
    noise_log10: tuple[float, float] = (-2.2, -1.3)
    level_db: float = 6.0
    described_truthfully: float = 0.75


@dataclass(frozen=True)
class Recording:
    """A corrupted sound and the sentence that says how good the recording is (not always truthfully)."""

    waveform: np.ndarray
    aesthetic: str


def _aesthetic_text(noise: float, level_db: float) -> str:
    quality = "Clean clear" if noise < 10**-2.2 else ("Slightly hissy" if noise < 10**-1.75 else "Noisy hissy")
    level = "a low" if level_db < -4 else ("a high" if level_db > 4 else "a moderate")
    return f"{quality} recording at {level} level."


def corrupt(scene: Scene, config: CorruptionConfig, clean_text: str) -> Recording:
    """Sound (2, S) of a scene with faults; `clean_text` is what a planner writes about the recording."""
    rng = np.random.default_rng([scene.seed, 3])
    index = scene.material_index
    if rng.random() < config.wrong_class:
        index = (index + int(rng.integers(1, len(MATERIALS)))) % len(MATERIALS)
    events = np.array(scene.events)
    pans = scene.position(events)
    gains = np.array(scene.loudness)
    events = events + rng.normal(0, config.jitter_s, len(events))
    if rng.random() < config.shift_probability:
        events = events + rng.normal(0, config.shift_s)
    keep = rng.random(len(events)) >= config.dropped
    keep[: int(not keep.any())] = True
    events, pans, gains = events[keep], pans[keep], gains[keep]
    if len(scene.events) and rng.random() < config.invented:
        events = np.append(events, rng.uniform(0.1, SECONDS - 0.2))
        pans = np.append(pans, rng.uniform(-1, 1))
        gains = np.append(gains, rng.uniform(0.5, 1.0))
    fate = rng.random()
    pans = -pans if fate < config.mirrored else (0 * pans if fate < config.mirrored + config.mono else pans)
    sound = place(np.clip(events, 0, SECONDS), gains, pans, index, int(rng.integers(VARIANTS)))
    level_db = rng.normal(0, config.level_db)
    noise = 10 ** rng.uniform(*config.noise_log10) if rng.random() < config.noisy else 3e-4
    sound = normalise(sound, -24.0 + level_db) + rng.normal(0, noise, sound.shape)
    text = _aesthetic_text(noise, level_db) if rng.random() < config.described_truthfully else clean_text
    return Recording(np.clip(sound, -1, 1).astype(np.float32), text)
