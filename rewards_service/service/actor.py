"""The body of one reward replica: a scorer in a process of its own, the same under plain actors and Ray Serve."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from rewards_service.build import build_scorer
from rewards_service.config import ScorerConfig
from rewards_service.scores import Reference, Scores
from rewards_service.service.border import pack_scores, unpack_request

WARM_UP = Reference("warm-up", "", 1.0, (0.5,), (0.0,), 16.0)


class RewardActor:
    """Scores one dimension. Stateless between calls, so a restart loses nothing but the call in flight."""

    def __init__(self, dimension: str, config: str) -> None:
        """Build the scorer and run it once, so that missing weights show at start. Raises RewardError then.

        config: the dimension's ScorerConfig as JSON, which every environment can read.
        """
        told = ScorerConfig.model_validate_json(config)
        torch.set_num_threads(told.torch_threads)
        self._dimension = dimension
        self._scorer = build_scorer(dimension, told)
        load = getattr(self._scorer, "load", None)
        if load is not None:
            load()
        self._scorer.score(np.zeros((1, 1, 2, 16000), np.float32), 16000, [WARM_UP])
        self._calls, self._samples, self._busy_s = 0, 0, 0.0
        self._running: dict[int, float] = {}

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) float32 waveforms against G references."""
        with self._timed():
            scores = self._scorer.score(waveforms, sample_rate, references, detail)
        self._calls += 1
        self._samples += int(np.size(getattr(scores, "values", ())))
        return scores

    def score_packed(self, samples: bytes, request: str) -> str:
        """`score` for callers in another environment (`rewards_service.service.border`)."""
        return pack_scores(self.score(*unpack_request(samples, request)))

    def health(self) -> dict[str, Any]:
        """What this replica has done since it started; an answer at all means it is alive and not stuck."""
        return {
            "dimension": self._dimension,
            "pid": os.getpid(),
            "calls": self._calls,
            "samples": self._samples,
            "busy_s": self._busy_s,
            "cpu_s": time.process_time(),
        }

    def running_s(self) -> float:
        """For how long the oldest call has been running, in s; 0 when none is."""
        return max((time.monotonic() - began for began in list(self._running.values())), default=0.0)

    def pid(self) -> int:
        """Process id, for chaos tests."""
        return os.getpid()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = self._running[threading.get_ident()] = time.monotonic()
        try:
            yield
        finally:
            del self._running[threading.get_ident()]
            self._busy_s += time.monotonic() - began
