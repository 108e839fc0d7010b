"""Which steps are stochastic: a pure function of (seed, iteration), the same for every rank, group and retry."""

import hashlib

from trainer.config import AlgorithmConfig
from trainer.group import Window


def window(seed: int, iteration: int, config: AlgorithmConfig) -> Window:
    """The window of one iteration, its start uniform over config.window_lo..config.last_start (both included).

    Paper: arXiv 2511.18833, section 3.3, with l drawn anew for each iteration.
    """
    digest = hashlib.blake2b(f"window/{seed}/{iteration}".encode(), digest_size=8).digest()
    choices = config.last_start - config.window_lo + 1
    return Window(config.window_lo + int.from_bytes(digest, "big") % choices, config.window_size)
