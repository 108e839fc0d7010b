"""Means, ratios and crossings with 95 % intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; NaN bounds where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """ "0.741 (0.720 to 0.762)", or the value alone."""
        if not np.isfinite(self.value):
            return "–"
        form = f"{'+' if sign else ''}.{digits}f"
        bounds = f" ({self.low:{form}} to {self.high:{form}})" if np.isfinite([self.low, self.high]).all() else ""
        return f"{self.value:{form}}{bounds}"


def student(values: np.ndarray) -> Interval:
    """Mean of independent values (seeds) with Student's interval; the bounds need at least two."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if known.size == 0:
        return Interval(float("nan"))
    mean = float(known.mean())
    if known.size < 2:
        return Interval(mean)
    half = float(stats.t.ppf(0.975, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size))
    return Interval(mean, mean - half, mean + half)


def bootstrap(
    statistic: Callable[[np.ndarray], float], count: int, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """A statistic of row indices with the percentile interval over resampled rows; of one row without bounds."""
    whole = float(statistic(np.arange(count)))
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    return percentile(whole, np.array([statistic(rows) for rows in draws] if count > 1 else []))


def percentile(value: float, resampled: np.ndarray) -> Interval:
    """A value with the 95 % percentile interval of its resamples.

    Those that are not finite are left out; with more than a tenth of them, or none at all, there are no bounds.
    """
    known = resampled[np.isfinite(resampled)]
    if known.size == 0 or known.size < 0.9 * resampled.size:
        return Interval(value)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def adjusted_mean(cost: np.ndarray, evaluations: np.ndarray, expected: float) -> float:
    """Mean cost at the mean number of evaluations that the window policy has over all its starts.

    Cost is linear in the evaluations, so the sampled starts' deviation from the exact mean is taken out by regression.
    """
    spread = evaluations - evaluations.mean()
    square = float(spread @ spread)
    slope = float(spread @ cost) / square if square > 0 else 0.0
    return float(cost.mean() + slope * (expected - evaluations.mean()))


def crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """Smallest x at which the running maximum of y, linearly interpolated, reaches a level; NaN if it never does.

    x rises. The running maximum makes it the first time a score is reached, which a later dip does not undo.
    """
    best = np.maximum.accumulate(np.asarray(y, dtype=np.float64))
    if not best[-1] >= level:
        return float("nan")
    after = int(np.argmax(best >= level))
    if after == 0:
        return float(x[0])
    share = (level - best[after - 1]) / (best[after] - best[after - 1])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))
