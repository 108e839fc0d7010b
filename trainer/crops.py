"""Crops of sounds for the autoencoder: which file and where is a pure function of (seed, step, row)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from media.audio import fit_length, resample
from media.errors import MediaError
from media.opening import open_media, sound_stream
from media.sound import read_sound
from settings import Section
from trainer.shuffle import Shuffle

ATTEMPTS = 8  # places tried for one crop before the data counts as unusable
SILENCE_DB = -60.0  # RMS below which another place is tried: a relative error means nothing there

Key = tuple[int, int, int]  # file, step, row of the batch


class ReaderConfig(Section):
    """workers: processes of a rank that decode ahead (0: none). timeout_s: longest wait for one batch, seconds."""

    workers: NonNegativeInt = 4
    timeout_s: NonNegativeInt = 300


@dataclass(frozen=True)
class CropBatch:
    """sounds: (b, 2, S) float32. skipped: (file, reason) of those that could not be read and were replaced."""

    sounds: Tensor
    skipped: tuple[tuple[str, str], ...]


class Crops(Dataset[CropBatch]):
    """A crop of `samples` at `sample_rate` out of each file asked for; shorter sounds end in silence."""

    def __init__(self, files: Sequence[str], samples: int, sample_rate: int, seed: int):
        self.files, self.samples, self.sample_rate, self.seed = tuple(files), samples, sample_rate, seed

    def __getitem__(self, key: Key) -> CropBatch:
        """One crop, (1, 2, samples). Where a file cannot be read or is silent there, the same key draws another place.

        Raises MediaError when `ATTEMPTS` files in a row cannot be read; the last of as many silent crops is taken.
        """
        number, step, row = key
        random = np.random.default_rng([self.seed, step, row])
        skipped: list[tuple[str, str]] = []
        crop = None
        for _ in range(ATTEMPTS):
            try:
                crop = read_crop(self.files[number], self.samples, self.sample_rate, random.random())
                if np.mean(crop**2) > 10 ** (SILENCE_DB / 10):
                    break
            except MediaError as error:
                skipped.append((error.path, error.reason))
            number = int(random.integers(len(self.files)))
        if crop is None:
            names = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
            raise MediaError(skipped[0][0], f"{ATTEMPTS} sounds in a row cannot be read ({names}); repair the data.")
        return CropBatch(torch.from_numpy(crop)[None], tuple(skipped))


def read_crop(path: str | Path, samples: int, sample_rate: int, place: float) -> np.ndarray:
    """(2, samples) float32 from the relative place in [0, 1) of a file's sound. Raises MediaError."""
    with open_media(path) as container:
        stream = sound_stream(container, path)
        base = float(stream.time_base) if stream.time_base else 0.0
        origin = (stream.start_time or 0) * base
        total = stream.duration * base if stream.duration else (container.duration or 0) / av.time_base
        seconds = samples / sample_rate
        start = place * max(0.0, total - seconds)
        waveform, rate = read_sound(container, stream, origin, start, seconds)
    return fit_length(resample(waveform, rate, sample_rate), samples)


def crop_batches(
    crops: Crops, batch: int, start: int, stop: int, config: ReaderConfig, rank: int = 0, world: int = 1
) -> Iterator[CropBatch]:
    """This rank's share of the batches of steps start to stop; every epoch takes each file once, in a new order."""
    shuffle = Shuffle(len(crops.files), batch, crops.seed)
    keys = [
        [(int(number), step, row) for row, number in enumerate(shuffle.at(step))][rank::world]
        for step in range(start, stop)
    ]
    return iter(
        DataLoader(
            crops,
            batch_sampler=keys,  # pyright: ignore[reportArgumentType] (any list of lists of keys will do)
            num_workers=config.workers,
            collate_fn=_joined,
            timeout=config.timeout_s if config.workers else 0,
            multiprocessing_context="spawn" if config.workers else None,
        )
    )


def _joined(parts: list[CropBatch]) -> CropBatch:
    return CropBatch(torch.cat([part.sounds for part in parts]), tuple(s for part in parts for s in part.skipped))
