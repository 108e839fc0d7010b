"""Reward replicas and scorers that misbehave. No torch, so that bare replicas start at once."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class MarkScorer:
    """Scores each sample the first value of its waveform, so that every answer can be told apart.

    A file in `trap` named die, hang or raise strikes once, at the next call; it is gone then. delay_s: of every call,
    asleep. culprit: a waveform that starts with this raises.
    """

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    trap: str = ""
    delay_s: float = 0.0
    hang_s: float = 600.0
    culprit: float = -1.0

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        if references[0].clip_id != "warm-up":
            self._strike()
            time.sleep(self.delay_s)
        marks = np.asarray(waveforms[:, :, 0, 0], np.float64)
        if (marks == np.float32(self.culprit)).any():
            raise ValueError("the culprit is here")
        measured = [[{"mark": float(mark)} for mark in row] for row in marks]
        return Scores(marks, measured=measured if detail else None)

    def _strike(self) -> None:
        for kind in ("die", "hang", "raise"):
            mark = Path(self.trap) / kind
            if not self.trap or not mark.exists():
                continue
            mark.unlink(missing_ok=True)
            if kind == "die":
                os._exit(1)
            if kind == "hang":
                time.sleep(self.hang_s)
            if kind == "raise":
                raise ValueError("a trap was set")


@dataclass(frozen=True)
class WrongScorer:
    """Answers wrongly in the way `how` says, to everything but the warm-up."""

    how: str = "nan"

    def score(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False) -> Any:
        values = np.tile(np.linspace(0.1, 0.9, waveforms.shape[1]), (len(waveforms), 1))
        if references[0].clip_id == "warm-up":
            return Scores(values)
        if self.how == "raise":
            raise ValueError("no such filter")
        if self.how == "nan":
            values[:, 0] = np.nan
        if self.how == "infinite":
            values[:, 0] = np.inf
        if self.how == "beyond":
            values[:, 0] = 7.0
        answers = {"shape": Scores(values.T), "number": 0.5, "nothing": None, "text": "0.5", "list": values.tolist()}
        answers["integers"] = Scores(np.ones(values.shape, int))
        return answers.get(self.how, Scores(values))
