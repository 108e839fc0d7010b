"""A small contrastive audio-text encoder: the instrument of the semantic reward (after CLAP, arXiv 2206.04769)."""

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rewards_service.batch import resample
from rewards_service.errors import RewardError
from rewards_service.spectra import band_power, mel_filters
from rewards_service.weights import read_weights, write_weights

KIND = "contrastive-audio-text"


@dataclass(frozen=True)
class Shape:
    """Front end and width. rate: Hz. window, hop: samples. range_db: depth kept below the loudest band."""

    rate: int = 16000
    window: int = 512
    hop: int = 320
    bands: int = 40
    range_db: float = 60.0
    channels: tuple[int, ...] = (12, 24, 40, 56)
    width: int = 64


def words_of(text: str) -> list[str]:
    """Lower-case words of a text, in order."""
    return re.findall(r"[a-z]+", text.lower())


class Towers(nn.Module):
    """Audio CNN and bag-of-words text tower into one unit sphere."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for channels in shape.channels:
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels)]
            layers += [nn.ReLU(inplace=True)]
            before = channels
        self.convolutions = nn.Sequential(*layers)
        rows = math.ceil(shape.bands / 2 ** len(shape.channels))
        self.audio_head = nn.Linear(2 * before * rows, shape.width)
        self.words = nn.Linear(vocabulary, shape.width, bias=False)
        self.text_head = nn.Sequential(nn.ReLU(), nn.Linear(shape.width, shape.width))

    def audio(self, levels: Tensor) -> Tensor:
        """(B, T, bands) normalised log-mel levels to (B, width) unit vectors."""
        maps = self.convolutions(levels[:, None])
        pooled = torch.cat([maps.mean(2), maps.amax(2)], dim=1).flatten(1)
        return nn.functional.normalize(self.audio_head(pooled), dim=-1)

    def text(self, bags: Tensor) -> Tensor:
        """(B, V) word weights to (B, width) unit vectors."""
        return nn.functional.normalize(self.text_head(self.words(bags)), dim=-1)


class ContrastiveEncoder:
    """Towers with their vocabulary. All methods run without gradients, in evaluation mode."""

    def __init__(self, towers: Towers, shape: Shape, vocabulary: list[str], common: list[str], texts: list[str]):
        self.towers = towers.eval().requires_grad_(False)
        self.shape = shape
        self.vocabulary = vocabulary
        self.common = frozenset(common)
        self.texts = texts
        self._index = {word: i for i, word in enumerate(vocabulary)}
        self._filters = mel_filters(shape.bands, shape.window, shape.rate, 50.0, shape.rate / 2)

    def known(self, text: str) -> list[str]:
        """The telling words of a text that the encoder has learned (not those in nearly every training text)."""
        return [w for w in words_of(text) if w in self._index and w not in self.common]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the encoder never saw."""
        return [w for w in words_of(text) if w not in self._index]

    def bags(self, texts: list[str]) -> Tensor:
        """(B, V) mean one-hot of the known telling words of each text."""
        out = torch.zeros(len(texts), len(self.vocabulary))
        for row, text in zip(out, texts, strict=True):
            for word in self.known(text):
                row[self._index[word]] += 1.0
        return out / out.sum(1, keepdim=True).clamp_min(1.0)

    def levels(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(B, 2, S) to (B, T, bands) log-mel levels in about [-1, 1], independent of the sound's level."""
        if sample_rate != self.shape.rate:
            audio = resample(audio, sample_rate, self.shape.rate)
        return log_mel(audio, self.shape, self._filters)

    @torch.inference_mode()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(B, 2, S) waveforms to (B, width) unit vectors."""
        return self.towers.audio(self.levels(audio, sample_rate))

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts to (B, width) unit vectors."""
        return self.towers.text(self.bags(texts))

    def save(self, path: str | Path) -> None:
        """Write weights, vocabulary and front end to one safetensors file."""
        about = {"kind": KIND, "shape": asdict(self.shape), "vocabulary": self.vocabulary}
        about |= {"common": sorted(self.common), "texts": self.texts}
        write_weights(path, self.towers.state_dict(), about)

    @staticmethod
    def load(path: str | Path) -> "ContrastiveEncoder":
        """Read what `save` wrote. Raises RewardError for any other file."""
        tensors, about = read_weights(path, KIND)
        try:
            fields = about["shape"] | {"channels": tuple(about["shape"]["channels"])}
            shape = Shape(**fields)
            towers = Towers(shape, len(about["vocabulary"]))
            towers.load_state_dict(tensors)
            return ContrastiveEncoder(towers, shape, about["vocabulary"], about["common"], about["texts"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise RewardError(f"{path} does not fit this version ({error}); make it again.") from error


def log_mel(audio: Tensor, shape: Shape, filters: Tensor) -> Tensor:
    """(B, 2, S) to (B, T, bands) levels below the loudest band, mapped from [-range_db, 0] to [-1, 1]."""
    power = band_power(audio, shape.window, shape.hop, filters)
    power = power / power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    levels = 10 * torch.log10(power.clamp_min_(10 ** (-shape.range_db / 10)))
    return levels * (2 / shape.range_db) + 1


def fit(
    waveforms: np.ndarray,
    texts: list[str],
    *,
    sample_rate: int,
    seed: int,
    labels: list[str] | None = None,
    steps: int = 200,
    batch: int = 64,
    rate: float = 3e-3,
    scale: float = 8.0,
    shape: Shape | None = None,
) -> ContrastiveEncoder:
    """Train on (B, 2, S) waveforms and their texts with multi-positive InfoNCE.

    Samples with the same label (the text's words, if no labels are given) are positives of each other. Noises that
    belong to no text are added to every step as negatives, so that noise does not resemble anything.
    scale: what multiplies the cosines in the loss. It is fixed because it decides where a good match ends up: clean
    sound reaches .97 at 5, .87 at 8, .67 at 12; lower leaves no room between good and very good.
    """
    shape = shape or Shape()
    generator = torch.Generator().manual_seed(seed)
    counts = Counter(word for text in texts for word in set(words_of(text)))
    vocabulary = sorted(counts)
    common = [word for word in vocabulary if counts[word] > 0.8 * len(texts)]
    keys = labels or [" ".join(sorted(set(words_of(t)) - set(common))) for t in texts]
    _, key = np.unique(keys, return_inverse=True)
    ids = torch.from_numpy(key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = Towers(shape, len(vocabulary))
    encoder = ContrastiveEncoder(towers, shape, vocabulary, common, sorted(set(texts)))
    bags = encoder.bags(texts)
    sounds = torch.from_numpy(np.ascontiguousarray(waveforms, dtype=np.float32))
    levels = encoder.levels(sounds, sample_rate)
    noises = encoder.levels(_noises(64, sounds.shape[-1], generator), shape.rate)
    towers.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(towers.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    for _ in range(steps):
        pick = torch.randint(len(texts), (batch,), generator=generator)
        other = torch.randint(len(noises), (max(batch // 8, 1),), generator=generator)
        heard = torch.cat([_vary(levels[pick], generator), _vary(noises[other], generator)])
        loss = _loss(towers, heard, bags[pick], ids[pick], scale)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return ContrastiveEncoder(towers, shape, vocabulary, common, encoder.texts)


def _loss(towers: Towers, heard: Tensor, bags: Tensor, ids: Tensor, scale: float) -> Tensor:
    """Multi-positive InfoNCE both ways; rows of `heard` beyond the texts are negatives pushed below zero."""
    audio, text = towers.audio(heard), towers.text(bags)
    cosines = audio @ text.T
    same = (ids[:, None] == ids[None]).float()
    share = same / same.sum(1, keepdim=True)
    count = len(ids)
    by_audio = -(share * (scale * cosines[:count]).log_softmax(1)).sum(1).mean()
    by_text = -(share * (scale * cosines).log_softmax(0)[:count]).sum(0).mean()
    return 0.5 * (by_audio + by_text) + cosines[count:].clamp_min(0).square().mean()


def _vary(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift in time, raise a random floor and tilt slightly: (B, T, bands) levels as other recordings of the same."""
    shift = int(torch.randint(levels.shape[1], (), generator=generator))
    floor = -1.0 + 0.8 * torch.rand(len(levels), 1, 1, generator=generator) ** 2
    jitter = 0.05 * torch.randn(levels.shape, generator=generator)
    return torch.maximum(levels.roll(shift, dims=1), floor) + jitter


def _noises(count: int, samples: int, generator: torch.Generator) -> Tensor:
    """(count, 2, samples) coloured noises, every other one with a random envelope."""
    white = torch.randn(count, samples, generator=generator)
    slope = torch.rand(count, 1, generator=generator) * 2 - 0.5
    spectrum = torch.fft.rfft(white)
    bins = torch.arange(1, spectrum.shape[1] + 1) / spectrum.shape[1]
    noise = torch.fft.irfft(spectrum * bins ** (-slope), n=samples)
    noise = noise / noise.square().mean(1, keepdim=True).sqrt()
    gate = torch.rand(count, 32, generator=generator).repeat_interleave(math.ceil(samples / 32), 1)[:, :samples]
    noise[::2] *= gate[::2]
    return 0.05 * noise[:, None].expand(-1, 2, -1)
