"""Sounds that game one trained scorer each: the score rises over an ordinary start, the sound gets worse."""

import numpy as np
import torch

from rewards_service.contrastive import ContrastiveEncoder
from rewards_service.scores import Reference
from scenes.corruption import CorruptionConfig, corrupt
from scenes.sound import SAMPLE_RATE, normalise, place, render
from scenes.world import Scene

LENGTH = 2 * SAMPLE_RATE


def imperfect(scenes: list[Scene]) -> np.ndarray:
    """What pre-training hears."""
    return np.stack([corrupt(scene, CorruptionConfig(), "").waveform for scene in scenes])


def whispering_to_the_encoder(
    encoder: ContrastiveEncoder, references: list[Reference], sounds: np.ndarray
) -> np.ndarray:
    """Semantic: faint noise that moves the encoder's embedding onto the text, found by its own gradient."""
    texts = encoder.embed_text([r.text for r in references]).clone()
    audio = torch.tensor(sounds, requires_grad=True)
    for _ in range(12):
        likeness = (encoder.towers.audio(_levels(encoder, audio)) * texts).sum()
        (slope,) = torch.autograd.grad(likeness, audio)
        with torch.no_grad():
            audio += 0.003 * slope.sign()
    return audio.detach().numpy()


def _levels(encoder: ContrastiveEncoder, audio: torch.Tensor) -> torch.Tensor:
    """The encoder's front end, differentiable."""
    shape = encoder.shape
    mono = torch.nn.functional.pad(audio.mean(1), (shape.window // 2, shape.window // 2), mode="reflect")
    frames = mono.unfold(1, shape.window, shape.hop) * torch.hann_window(shape.window)
    power = torch.fft.rfft(frames).abs().square() @ encoder._filters
    power = power / power.amax(dim=(1, 2), keepdim=True)
    return 10 * torch.log10(power.clamp_min(10 ** (-shape.range_db / 10))) * (2 / shape.range_db) + 1


def late(scene: Scene, by: float = 0.05) -> np.ndarray:
    """Every impact heard, 50 ms late: the temporal score dislikes it, F1 within 70 ms does not mind."""
    return _strikes(scene, [min(e + by, 1.9) for e in scene.events], list(scene.loudness))


def striking_again(scene: Scene, extra: int = 4) -> np.ndarray:
    """Temporal: impacts on time, and soft additional ones that the cosine of onset strengths hardly feels."""
    rng = np.random.default_rng(scene.seed)
    events, gains = list(scene.events), [1.0] * len(scene.events)
    for time in rng.uniform(0.05, 1.8, 200):
        if len(events) < len(scene.events) + extra and all(abs(time - e) > 0.13 for e in events):
            events, gains = [*events, float(time)], [*gains, 0.35]
    order = np.argsort(events)
    return _strikes(scene, [events[i] for i in order], [gains[i] for i in order])


def _strikes(scene: Scene, events: list[float], gains: list[float]) -> np.ndarray:
    times = np.array(events)
    return normalise(place(times, np.array(gains), scene.position(times), scene.material_index, 0))


def quiet(scene: Scene) -> np.ndarray:
    """The clean sound at half its level."""
    return render(scene) / 2


def one_burst(scene: Scene) -> np.ndarray:
    """Aesthetic: silence with one burst of noise at the level, range and bandwidth of a clean recording."""
    burst = np.random.default_rng(scene.seed).standard_normal(6000) * np.exp(-np.arange(6000) / 1500)
    out = np.zeros((2, LENGTH), np.float32)
    out[:, 2000:8000] = burst
    return normalise(out)


def tone(scene: Scene, hidden: float = 0.0) -> np.ndarray:
    """Spatial: a tone at every impact, in the middle; hidden (samples): how far it lags on the wrong side, while faint
    wide-band noise, which the whitened correlation hears best, lags on the right one."""
    rng = np.random.default_rng(scene.seed)
    out = np.zeros((2, LENGTH))
    for event in scene.events:
        first = round(event * SAMPLE_RATE)
        t = np.arange(min(3000, LENGTH - first)) / SAMPLE_RATE
        loud = np.sin(2 * np.pi * 1800 * t) * np.exp(-t / 0.06)
        faint = 0.08 * rng.standard_normal(len(t)) * np.exp(-t / 0.06)
        place = float(scene.position(np.array([event]))[0])
        for channel, side in ((0, -1.0), (1, 1.0)):
            shift = side * place * hidden
            out[channel, first : first + len(t)] += _delayed(loud, shift) + _delayed(faint, -shift)
    return normalise(out.astype(np.float32))


def _delayed(sound: np.ndarray, samples: float) -> np.ndarray:
    turned = np.fft.rfft(sound) * np.exp(-2j * np.pi * np.fft.rfftfreq(len(sound)) * samples)
    return np.fft.irfft(turned, len(sound))
