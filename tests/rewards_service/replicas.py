"""Reward replicas that misbehave, for the client's tests. No torch, so that their processes start at once."""

import os
import time
from typing import Any

import numpy as np

from rewards_service.scores import Reference, Scores


class Good:
    """Scores every sample 0.5."""

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Any:
        return Scores(np.full(waveforms.shape[:2], 0.5))

    def pid(self) -> int:
        return os.getpid()


class HangsOnce(Good):
    """Hangs in its first life; after a restart it scores."""

    def __init__(self, mark: str) -> None:
        self.first = not os.path.exists(mark)
        open(mark, "w").close()

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Any:
        if self.first:
            time.sleep(600)
        return super().score(waveforms, sample_rate, references, detail)


class DiesOnce(HangsOnce):
    """Dies in the middle of its first call."""

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Any:
        if self.first:
            os._exit(1)
        return Good.score(self, waveforms, sample_rate, references, detail)


class Raises(Good):
    """Fails every call."""

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Any:
        raise ValueError("no such filter")


class Answers(Good):
    """Answers with whatever it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Any:
        return self.answer


class Hangs(Good):
    """Never answers, in any life."""

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Any:
        time.sleep(600)
