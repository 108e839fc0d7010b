"""Solvers of a whole deterministic trajectory from noise to data, chosen by name.

`euler`, `ab2` and `dpmpp2m` are those of the tails. Guidance can be confined to an interval of noise levels
(arXiv 2404.07724), which halves the evaluations outside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from torch import Tensor

from foundation.errors import SamplingError
from foundation.tails import TAILS, Field, Solver

Interval = tuple[float, float]


def midpoint(velocity: Field, x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Second order, two evaluations a step, none of them at the grid's end."""
    for sigma, h in _steps(sigmas):
        middle = x + (h / 2) * velocity(x, sigma)
        x = x + h * velocity(middle, sigma + h / 2)
    return x


def heun(velocity: Field, x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Second order, two evaluations a step: the mean of the slopes at both ends (arXiv 2206.00364, algorithm 1)."""
    for sigma, h in _steps(sigmas):
        v = velocity(x, sigma)
        x = x + (h / 2) * (v + velocity(x + h * v, sigma + h))
    return x


def abm3(velocity: Field, x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Third order, one evaluation a step: Adams-Bashforth predicts, Adams-Moulton corrects where it was evaluated.

    The evaluation at a predicted state corrects that state before the next step leaves it, which costs nothing (the
    corrector of arXiv 2302.04867, in the velocity of a straight path instead of the data). The end is only predicted.
    """
    predicted = x
    behind: list[tuple[Tensor, float]] = []  # velocity and length of the steps already made, newest last
    for sigma, h in _steps(sigmas):
        v = velocity(predicted, sigma)
        if behind:
            before, last = behind[-1]
            slope = (v - before) / last
            x = x + (last / 2) * (v + before)
            if len(behind) > 1:
                older, length = behind[-2]
                x = x - (last**3 / (6 * (last + length))) * (slope - (before - older) / length)
            predicted = x + h * v + (h * h / 2) * slope
        else:
            predicted = x + h * v
        behind = [*behind[-1:], (v, h)]
    return predicted


SOLVERS: dict[str, Solver] = {**TAILS, "midpoint": midpoint, "heun": heun, "abm3": abm3}
TWO_STAGE = ("midpoint", "heun")


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a scale, applied to steps that begin inside (low, high] noise levels."""

    scale: float = 1.0
    interval: Interval = (0.0, 1.0)

    def at(self, sigma: float) -> float:
        """The scale of a step that begins at this level."""
        low, high = self.interval
        return self.scale if low < sigma <= high else 1.0


def solver(name: str) -> Solver:
    """The solver of a name. Raises SamplingError naming the known ones."""
    if name not in SOLVERS:
        raise SamplingError(f"Unknown solver {name!r}; choose one of {', '.join(sorted(SOLVERS))}.")
    return SOLVERS[name]


def integrate(
    name: str, field: Callable[[float], Field], x: Tensor, sigmas: np.ndarray, guidance: Guidance | None = None
) -> Tensor:
    """Solve from sigmas[0] to sigmas[-1].

    field: the velocity under a guidance scale. Where guidance begins or ends the field jumps, so the solver starts
    anew there and no history crosses. Raises SamplingError for an unknown solver.
    """
    solve, guidance = solver(name), guidance or Guidance()
    for scale, first, last in _stretches(sigmas, guidance):
        x = solve(field(scale), x, sigmas[first : last + 1])
    return x


def evaluations(name: str, sigmas: np.ndarray, guidance: Guidance | None = None) -> int:
    """Velocity evaluations per sample, a guided pair as two."""
    stages = 2 if name in TWO_STAGE else 1
    parts = _stretches(sigmas, guidance or Guidance())
    return sum(stages * (last - first) * (1 if scale == 1 else 2) for scale, first, last in parts)


def _stretches(sigmas: np.ndarray, guidance: Guidance) -> list[tuple[float, int, int]]:
    """(scale, first, last): places of the grid between which the scale stays the same."""
    scales = [guidance.at(float(sigma)) for sigma in sigmas[:-1]]
    found, place = [], 0
    for scale, group in groupby(scales):
        count = len(list(group))
        found.append((scale, place, place + count))
        place += count
    return found


def _steps(sigmas: np.ndarray) -> list[tuple[float, float]]:
    """(level, signed length) of every step."""
    return [(float(a), float(b) - float(a)) for a, b in pairwise(sigmas)]
