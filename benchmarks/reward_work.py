"""Scorers that cost a known amount: of CPU, or of time alone."""

import time
from dataclasses import dataclass

import numpy as np

from rewards_service.scores import Reference, Scores

PLACE = "benchmarks.reward_work"


@dataclass(frozen=True)
class CpuScorer:
    """Works until its thread has used `seconds` of CPU. numeric: in matrix products, which leave Python's lock free, as
    models do; else in Python alone."""

    seconds: float = 0.02
    numeric: bool = True

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Half a point for everything."""
        end = time.thread_time() + self.seconds
        matrix = np.full((64, 64), 0.5)
        while time.thread_time() < end:
            if self.numeric:
                _ = matrix @ matrix
        return Scores(np.full(np.shape(waveforms)[:2], 0.5))


@dataclass(frozen=True)
class WaitScorer:
    """Sleeps for `seconds`: a stage that runs elsewhere, as on a GPU of its own."""

    seconds: float = 0.1

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Half a point for everything."""
        time.sleep(self.seconds)
        return Scores(np.full(np.shape(waveforms)[:2], 0.5))
