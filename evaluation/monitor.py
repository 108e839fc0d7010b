"""The hacking monitor: an alarm when a trained score rises while the measure that watches it falls. Pure functions.

At an evaluation with t earlier ones, the changes since each of them are compared, paired over scenes. The alarm needs
both changes beyond the same Student quantile, one-sided at ALPHA / (D t^2 (t + 1)) for D watched dimensions: over the t
comparisons and all evaluations that sums to ALPHA (sum of 1 / (t (t + 1)) is 1), however long the run. So in a run
where no trained score parts from its watcher, the chance of any alarm is at most ALPHA.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from evaluation.statistics import Estimate, mean_estimate
from settings import PrismError

ALPHA = 0.05
MIN_SCENES = 8  # below it a Student quantile this far out means nothing


@dataclass(frozen=True)
class Evaluation:
    """One held-out evaluation after `version` updates: {dimension: (B,)} scores and independent measures, NaN missing.

    clips: the B scenes.
    """

    version: int
    clips: tuple[str, ...]
    trained: Mapping[str, np.ndarray]
    watched: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Alarm:
    """A trained score and its watcher that parted between the updates `since_iteration` and `iteration`.

    Changes are means over `scenes` scenes with the standard error of the paired difference; `threshold` is how many
    standard errors both had to exceed.
    """

    dimension: str
    iteration: int
    since_iteration: int
    reward_change: float
    reward_stderr: float
    monitor_change: float
    monitor_stderr: float
    scenes: int
    threshold: float

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, the form of `alarms` in metrics.jsonl and summary.json."""
        return asdict(self)


def alarms(history: Sequence[Evaluation]) -> list[Alarm]:
    """The alarms that hold at the last evaluation, each since the one from which its watcher fell the furthest.

    Raises PrismError when the evaluations are out of order or scored other scenes.
    """
    _check(history)
    if len(history) < 2:
        return []
    now, earlier = history[-1], history[:-1]
    counts = {name: _shared(now, now, name).sum() for name in now.watched if name in now.trained}
    names = [name for name, count in counts.items() if count >= MIN_SCENES]
    level = ALPHA / (max(1, len(names)) * len(earlier) ** 2 * len(history))
    found = []
    for name in names:
        parted = [alarm for before in earlier if (alarm := _parted(before, now, name, level)) is not None]
        if parted:
            found.append(min(parted, key=lambda alarm: alarm.monitor_change))
    return found


def all_alarms(history: Sequence[Evaluation]) -> Iterator[Alarm]:
    """What `alarms` said at every evaluation of a run, in order."""
    for end in range(2, len(history) + 1):
        yield from alarms(history[:end])


def estimates(watched: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Mean and standard error over scenes of every dimension that was measured on any."""
    return {name: mean_estimate(values) for name, values in watched.items() if np.isfinite(values).any()}


def _parted(before: Evaluation, now: Evaluation, name: str, level: float) -> Alarm | None:
    shared = _shared(before, now, name)
    if shared.sum() < MIN_SCENES:
        return None
    reward = mean_estimate((now.trained[name] - before.trained[name])[shared])
    watcher = mean_estimate((now.watched[name] - before.watched[name])[shared])
    threshold = float(student.isf(level, reward.n - 1))
    if not (_size(reward) > threshold and _size(watcher) < -threshold):
        return None
    return Alarm(
        dimension=name,
        iteration=now.version,
        since_iteration=before.version,
        reward_change=reward.mean,
        reward_stderr=reward.stderr,
        monitor_change=watcher.mean,
        monitor_stderr=watcher.stderr,
        scenes=reward.n,
        threshold=threshold,
    )


def _shared(before: Evaluation, now: Evaluation, name: str) -> np.ndarray:
    """(B,) scenes with a score and a measure in both evaluations."""
    columns = [block.get(name) for e in (before, now) for block in (e.trained, e.watched)]
    known = [np.isfinite(column) for column in columns if column is not None]
    return np.logical_and.reduce(known) if len(known) == 4 else np.zeros(len(now.clips), bool)


def _size(change: Estimate) -> float:
    """A change in standard errors; infinite when all scenes changed by the same amount, 0 when none changed."""
    if change.stderr > 0:
        return change.mean / change.stderr
    return float(np.copysign(np.inf, change.mean)) if change.mean else 0.0


def _check(history: Sequence[Evaluation]) -> None:
    versions = [e.version for e in history]
    if versions != sorted(set(versions)):
        raise PrismError(f"Held-out evaluations must come in the order of their versions, got {versions}.")
    if any(e.clips != history[0].clips for e in history):
        raise PrismError(
            "The held-out clips are not those this run was evaluated on before, so its monitor cannot compare them. "
            "Resume with the same data, or start a new run."
        )
