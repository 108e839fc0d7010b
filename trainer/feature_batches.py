"""Training batches out of a feature store: who reads what, what is drawn for it, and what cannot be read."""

import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.model import training_dropout
from media.features import AUDIO, AUDIO_SCALE, SYNC, TEXT, VIDEO, FeatureError, FeatureStore
from settings import Section
from trainer.examples import EncoderNames, Example
from trainer.shuffle import InOrder, Shuffle
from trainer.timesteps import Sampler, noise_levels


class LoaderConfig(Section):
    """How batches are read.

    bucket_texts: bring texts of like length together, instead of padding to the longest of a random batch.
    prefetch: batches prepared ahead. threads: that prepare them, each with its own index of the store.
    max_skipped_share: of the examples that may be unreadable before training stops.
    """

    bucket_texts: bool = False
    prefetch: NonNegativeInt = 2
    threads: PositiveInt = 2
    max_skipped_share: NonNegativeFloat = 0.01


@dataclass(frozen=True)
class Pass:
    """Examples of one length, for one forward and backward pass.

    latents, noise: (b, C, L). times: (b,) noise levels. drop: (b,) masks of the nulled cross, add and sync paths.
    unseen: (b,) mask of the examples without a picture.
    """

    features: Conditions
    latents: Tensor
    noise: Tensor
    times: Tensor
    drop: tuple[Tensor, Tensor, Tensor]
    unseen: Tensor

    def __len__(self) -> int:
        return len(self.times)

    def to(self, device: torch.device) -> "Pass":
        """A copy on another device."""
        latents, noise, times = (part.to(device) for part in (self.latents, self.noise, self.times))
        cross, add, sync, unseen = (mask.to(device) for mask in (*self.drop, self.unseen))
        return Pass(self.features.to(device), latents, noise, times, (cross, add, sync), unseen)


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step. skipped: (clip, reason) of every place whose example could not be read."""

    step: int
    passes: tuple[Pass, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.passes))


@dataclass(frozen=True)
class Draws:
    """What is random about an example, as a function of (seed, its place in the endless sequence of examples)."""

    seed: int
    condition_dropout: float
    timesteps: Sampler

    def at(self, place: int, mean: np.ndarray, scale: np.ndarray | None) -> tuple[Tensor, ...]:
        """Latents (1, C, L) drawn around their mean, noise (1, C, L), noise level (1,), three masks (1,)."""
        generator = torch.Generator().manual_seed(_seed(self.seed, place))
        time = noise_levels(torch.randn(1, generator=generator), self.timesteps)
        drop = training_dropout(1, self.condition_dropout, generator)
        latents = torch.from_numpy(mean)[None]
        noise = torch.randn(latents.shape, generator=generator)
        if scale is not None:
            latents = latents + torch.from_numpy(scale)[None] * torch.randn(latents.shape, generator=generator)
        return latents, noise, time, *drop


class FeatureBatches:
    """Batches of one rank: `at` is a pure function of the step; `run` prepares them ahead.

    Rank r holds the places r, r + world, ... of every batch. Texts are padded with zeros to the longest of the whole
    batch over all ranks, as the original pads them to the longest of a process' share: the model sees padding. Clips of
    other lengths get a pass of their own; per_pass bounds the examples of one.
    """

    def __init__(
        self,
        root: str,
        encoders: EncoderNames,
        examples: Sequence[Example],
        shuffle: Shuffle | InOrder,
        draws: Draws,
        model: ModelConfig,
        per_pass: int | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.root, self.encoders, self.examples, self.shuffle, self.draws = root, encoders, examples, shuffle, draws
        self.model, self.per_pass, self.rank, self.world = model, per_pass, rank, world
        self._stores = threading.local()

    def at(self, step: int) -> Batch:
        """This rank's share of one batch."""
        indices = self.shuffle.at(step).tolist()
        tokens = max(self.examples[index].tokens for index in indices)
        first = step * self.shuffle.batch
        mine = [(first + k, self.examples[indices[k]]) for k in range(self.rank, len(indices), self.world)]
        features, failed = read_features(self._store(), self.encoders, [example for _, example in mine])
        rows = [self._row(place, example, features[example], tokens) for place, example in mine if example in features]
        skipped = tuple((example.clip, failed[example]) for _, example in mine if example in failed)
        return Batch(step, tuple(_passes(rows, self.per_pass)), skipped)

    def run(self, start: int, stop: int, config: LoaderConfig) -> Generator[Batch]:
        """Batches of the steps start, ..., stop - 1, in order, prepared by threads."""
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(config.threads, thread_name_prefix="features")
        try:
            for step in range(start, stop):
                while len(ahead) <= config.prefetch and step + len(ahead) < stop:
                    ahead.append(pool.submit(self.at, step + len(ahead)))
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _store(self) -> FeatureStore:
        if not hasattr(self._stores, "own"):
            self._stores.own = FeatureStore(self.root)
        return self._stores.own

    def _row(self, place: int, example: Example, arrays: dict[str, np.ndarray], tokens: int) -> tuple[Tensor, ...]:
        """The tensors of one example with a batch dimension of 1: features, draws, and whether it is unseen."""
        text = torch.zeros(1, max(tokens, len(arrays[TEXT])), arrays[TEXT].shape[1])
        text[0, : len(arrays[TEXT])] = torch.from_numpy(arrays[TEXT])
        latents, noise, time, cross, *drop = self.draws.at(place, arrays[AUDIO], arrays.get(AUDIO_SCALE))
        unseen = torch.tensor([not example.seen])
        if example.seen:
            video, sync = (torch.from_numpy(arrays[name])[None] for name in (VIDEO, SYNC))
        else:
            video, sync = torch.zeros(1, 1, self.model.video_dim), torch.zeros(1, 1, self.model.sync_dim)
        return video, text, sync, latents, noise, time, cross, *(mask | unseen for mask in drop), unseen


def read_features(
    store: FeatureStore, encoders: EncoderNames, examples: Sequence[Example]
) -> tuple[dict[Example, dict[str, np.ndarray]], dict[Example, str]]:
    """{example: {feature name: array}} and, of those that cannot be read, {example: reason}."""
    clips, texts = [e.clip for e in examples], [e.text for e in examples]
    seen = [e.clip for e in examples if e.seen]
    failed: dict[str, str] = {}
    video = _read(store, encoders.video, seen, failed)
    sync = _read(store, encoders.sync, seen, failed)
    audio = _read(store, encoders.audio, clips, failed)
    text = _read(store, encoders.text, texts, failed)
    found: dict[Example, dict[str, np.ndarray]] = {}
    skipped: dict[Example, str] = {}
    for example in examples:
        parts = {**video.get(example.clip, {}), **sync.get(example.clip, {}), **audio.get(example.clip, {})}
        parts |= text.get(example.text, {})
        reasons = [failed[key] for key in (example.clip, example.text) if key in failed]
        wrong = (
            reasons[0] if reasons else _unusable(parts, (VIDEO, SYNC, TEXT, AUDIO) if example.seen else (TEXT, AUDIO))
        )
        if wrong is None:
            found[example] = parts
        else:
            skipped[example] = wrong
    return found, skipped


def _read(
    store: FeatureStore, encoder: str, ids: Sequence[str], failed: dict[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """What is there; one by one where reading all together fails, so that a bad row costs no others."""
    if not ids:
        return {}
    try:
        return store.read(encoder, ids)
    except FeatureError as error:
        if len(set(ids)) == 1:
            failed.setdefault(ids[0], str(error))
            return {}
    found: dict[str, dict[str, np.ndarray]] = {}
    for key in dict.fromkeys(ids):
        found |= _read(store, encoder, [key], failed)
    return found


def _unusable(parts: Mapping[str, np.ndarray], names: Sequence[str]) -> str | None:
    """Why an example's arrays cannot be trained on, if so."""
    for name in names:
        if name not in parts:
            return f"there is no {name}"
        if parts[name].ndim != 2 or 0 in parts[name].shape or not np.isfinite(parts[name]).all():
            return f"{name} of shape {parts[name].shape} is not two-dimensional, empty or not finite"
    if AUDIO_SCALE in parts and parts[AUDIO_SCALE].shape != parts[AUDIO].shape:
        return f"{AUDIO_SCALE} is {parts[AUDIO_SCALE].shape}, but {AUDIO} is {parts[AUDIO].shape}"
    return None


def _passes(rows: Sequence[tuple[Tensor, ...]], limit: int | None) -> Iterator[Pass]:
    alike: dict[tuple, list[tuple[Tensor, ...]]] = {}
    for row in rows:
        alike.setdefault(tuple(part.shape for part in row), []).append(row)
    for group in alike.values():
        for start in range(0, len(group), limit or len(group)):
            video, text, sync, latents, noise, times, cross, add, synced, unseen = (
                torch.cat(parts) for parts in zip(*group[start : start + (limit or len(group))], strict=True)
            )
            yield Pass(Conditions(video, text, sync), latents, noise, times, (cross, add, synced), unseen)


def _seed(seed: int, place: int) -> int:
    return int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0] >> np.uint64(1))
