"""An independent sound classifier that judges what was generated and never rewards it.

It shares nothing with the contrastive encoder: cepstral statistics of whole clips instead of learned maps, another
front end, another loss, another seed.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rewards_service.batch import resample
from rewards_service.errors import RewardError
from rewards_service.spectra import band_power, mel_filters
from rewards_service.weights import read_weights, write_weights

KIND = "sound-classifier"
RATE, WINDOW, HOP, BANDS, CEPSTRA = 16000, 1024, 256, 64, 24


def _cosines() -> Tensor:
    """(BANDS, CEPSTRA) orthonormal DCT-II without its constant, so that level does not matter."""
    k = torch.arange(1, CEPSTRA + 1, dtype=torch.float64)
    n = torch.arange(BANDS, dtype=torch.float64) + 0.5
    return (math.sqrt(2 / BANDS) * torch.cos(math.pi / BANDS * n[:, None] * k)).float()


def cepstral_statistics(audio: Tensor, sample_rate: int) -> Tensor:
    """(B, 2, S) to (B, 4 CEPSTRA + 3): energy-weighted mean and spread of cepstra, the same of their slopes in time,
    and how fast the sound decays (share of frames within 10, 20 and 40 dB of the loudest)."""
    if sample_rate != RATE:
        audio = resample(audio, sample_rate, RATE)
    power = band_power(audio, WINDOW, HOP, mel_filters(BANDS, WINDOW, RATE, 40.0, 8000.0))
    energy = power.sum(-1)
    loudest = energy.amax(1, keepdim=True).clamp_min(1e-12)
    depth = 10 * torch.log10((energy / loudest).clamp_min(1e-9))
    floor = 1e-6 * power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    cepstra = torch.log(power + floor) @ _cosines()
    weights = (energy / loudest).sqrt()[..., None]
    slopes = cepstra[:, 2:] - cepstra[:, :-2]
    parts = [*_moments(cepstra, weights), *_moments(slopes, weights[:, 1:-1])]
    shares = [(depth > -d).float().mean(1, keepdim=True) for d in (10, 20, 40)]
    return torch.cat([*parts, *shares], dim=1)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    total = weights.sum(1).clamp_min(1e-9)
    mean = (values * weights).sum(1) / total
    spread = ((values - mean[:, None]).square() * weights).sum(1) / total
    return mean, spread.sqrt()


@dataclass(frozen=True)
class Judge:
    """Two-layer classifier on standardised statistics. labels: class names in output order."""

    layers: nn.Sequential
    mean: Tensor
    spread: Tensor
    labels: list[str]

    @torch.inference_mode()
    def probabilities(self, waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
        """(B, 2, S) waveforms to (B, K) class probabilities."""
        audio = torch.tensor(np.asarray(waveforms, dtype=np.float32))
        features = cepstral_statistics(audio, sample_rate)
        return self.layers((features - self.mean) / self.spread).softmax(1).numpy()

    def predict(self, waveforms: np.ndarray, sample_rate: int) -> list[str]:
        """(B, 2, S) waveforms to their most probable labels."""
        return [self.labels[i] for i in self.probabilities(waveforms, sample_rate).argmax(1)]

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file."""
        tensors = self.layers.state_dict() | {"mean": self.mean, "spread": self.spread}
        write_weights(path, tensors, {"kind": KIND, "labels": self.labels})

    @staticmethod
    def load(path: str | Path) -> "Judge":
        """Read what `save` wrote. Raises RewardError for any other file."""
        tensors, about = read_weights(path, KIND)
        try:
            mean, spread = tensors.pop("mean"), tensors.pop("spread")
            layers = _layers(len(mean), len(about["labels"]))
            layers.load_state_dict(tensors)
            return Judge(layers.eval().requires_grad_(False), mean, spread, about["labels"])
        except (KeyError, RuntimeError) as error:
            raise RewardError(f"{path} does not fit this version ({error}); make it again.") from error


def _layers(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Dropout(0.2), nn.Linear(64, classes))


def fit(
    waveforms: np.ndarray, labels: list[str], *, sample_rate: int, seed: int, steps: int = 400, batch: int = 128
) -> Judge:
    """Train on (B, 2, S) waveforms with one label each. Raises RewardError for fewer than two classes."""
    names, targets = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise RewardError(f"A judge needs at least two classes to tell apart; got {list(names)}.")
    audio = torch.tensor(np.asarray(waveforms, dtype=np.float32))
    features = cepstral_statistics(audio, sample_rate)
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-3)
    features, target = (features - mean) / spread, torch.from_numpy(targets)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = _layers(features.shape[1], len(names)).train()
        optimiser = torch.optim.AdamW(layers.parameters(), lr=3e-3, weight_decay=0.02)
        for _ in range(steps):
            pick = torch.randint(len(target), (batch,), generator=generator)
            noisy = features[pick] + 0.3 * torch.randn(batch, features.shape[1], generator=generator)
            loss = nn.functional.cross_entropy(layers(noisy), target[pick], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    return Judge(layers.eval().requires_grad_(False), mean, spread, [str(n) for n in names])
