"""In which order a training set is seen: pure functions of (seed, epoch), the same on every rank and after a resume."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

POOL = 32  # batches within which texts of like length are brought together


class Shuffle:
    """An endless sequence of examples, epoch after epoch, cut into batches of one size.

    Every epoch holds each of `count` examples once; a batch may reach into the next epoch. lengths: with them, each
    batch holds examples of like length, drawn out of `POOL` batches, so that less is padded.
    """

    def __init__(self, count: int, batch: int, seed: int, lengths: Sequence[int] | None = None):
        self.count, self.batch, self.seed = count, batch, seed
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._epoch = lru_cache(maxsize=3)(self._draw)

    def epoch(self, number: int) -> np.ndarray:
        """Examples of one epoch in order, (count,) int64."""
        return self._epoch(number)

    def at(self, step: int) -> np.ndarray:
        """Examples of one batch, (batch,) int64."""
        start, stop = step * self.batch, (step + 1) * self.batch
        first, last = start // self.count, (stop - 1) // self.count
        joined = np.concatenate([self.epoch(number) for number in range(first, last + 1)])
        return joined[start - first * self.count : stop - first * self.count]

    def _draw(self, number: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, number])
        drawn = random.permutation(self.count)
        if self._lengths is None:
            return drawn
        # Where the first batch that begins in this epoch begins.
        start = -number * self.count % self.batch
        pools = np.split(drawn, range(start, self.count, POOL * self.batch)) if start < self.count else [drawn]
        alike = np.concatenate([pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools])
        head, *whole = np.split(alike, range(start, self.count, self.batch)) if start < self.count else [alike]
        tail = whole.pop() if whole and len(whole[-1]) < self.batch else alike[:0]
        return np.concatenate([head, *(whole[k] for k in random.permutation(len(whole))), tail])


class InOrder:
    """Each example once, in the order given; the last batch may be smaller."""

    def __init__(self, count: int, batch: int):
        self.count, self.batch = count, batch

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.count // self.batch)

    def at(self, step: int) -> np.ndarray:
        """Examples of one batch."""
        return np.arange(step * self.batch, min((step + 1) * self.batch, self.count))
