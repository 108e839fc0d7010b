"""The body of one reward replica: a scorer in a process of its own. Plain class; `deploy` makes it a Ray actor."""

import os
import time
from typing import Any

import numpy as np
import torch

from rewards_service.build import build_scorer
from rewards_service.config import ScorerConfig
from rewards_service.scores import Reference, Scores

WARM_UP = Reference("warm-up", "", 1.0, (0.5,), (0.0,), 16.0)


class RewardActor:
    """Scores one dimension. Stateless between calls, so a restart loses nothing but the call in flight."""

    def __init__(self, dimension: str, config: ScorerConfig, threads: int = 1) -> None:
        """Build the scorer and run it once, so that missing weights show at start. Raises RewardError then."""
        torch.set_num_threads(threads)
        self._dimension = dimension
        self._scorer = build_scorer(dimension, config)
        self._scorer.score(np.zeros((1, 1, 2, 16000), np.float32), 16000, [WARM_UP])
        self._calls, self._samples, self._busy_s = 0, 0, 0.0

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) float32 waveforms against G references."""
        start = time.perf_counter()
        scores = self._scorer.score(waveforms, sample_rate, references, detail)
        self._calls += 1
        self._samples += scores.values.size
        self._busy_s += time.perf_counter() - start
        return scores

    def health(self) -> dict[str, Any]:
        """What this replica has done since it started; an answer at all means it is alive and not stuck."""
        return {
            "dimension": self._dimension,
            "pid": os.getpid(),
            "calls": self._calls,
            "samples": self._samples,
            "busy_s": self._busy_s,
        }

    def pid(self) -> int:
        """Process id, for chaos tests."""
        return os.getpid()
