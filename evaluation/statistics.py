"""Means with standard errors over scenes, plainly and by the jackknife."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A statistic over n scenes and its standard error; NaN where it is undefined."""

    mean: float
    stderr: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values; NaN becomes null."""
        return {"mean": _plain(self.mean), "stderr": _plain(self.stderr), "n": self.n}


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean over the finite entries of (B,) values; the standard error needs at least two of them."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if known.size == 0:
        return Estimate(float("nan"), float("nan"), 0)
    stderr = float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else float("nan")
    return Estimate(float(known.mean()), stderr, int(known.size))


def pearson(pairs: np.ndarray) -> float:
    """Correlation of the two columns of (n, 2); NaN with fewer than three rows or without variance."""
    if len(pairs) < 3 or np.any(np.ptp(pairs, axis=0) < 1e-12):
        return float("nan")
    return float(np.corrcoef(pairs.T)[0, 1])


def jackknife(scenes: Sequence[np.ndarray], statistic: Callable[[np.ndarray], float]) -> Estimate:
    """A statistic of all scenes' rows together; its standard error by leaving out one scene (not one row) at a time."""
    scenes = [s for s in scenes if len(s)]
    if not scenes:
        return Estimate(float("nan"), float("nan"), 0)
    whole = statistic(np.concatenate(scenes))
    n = len(scenes)
    if n < 2:
        return Estimate(whole, float("nan"), n)
    left_out = np.array([statistic(np.concatenate([*scenes[:i], *scenes[i + 1 :]])) for i in range(n)])
    return Estimate(whole, float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())), n)
