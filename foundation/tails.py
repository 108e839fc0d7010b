"""Deterministic solvers of dx/dsigma = v(x, sigma) over a falling grid, one velocity evaluation a step.

Each is `(velocity, x, sigmas) -> x at sigmas[-1]`. All start with a first-order step, so that no history crosses the
stochastic step they follow.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from torch import Tensor

from foundation.errors import SamplingError
from foundation.transitions import ode_step

Field = Callable[[Tensor, float], Tensor]
Solver = Callable[[Field, Tensor, np.ndarray], Tensor]


def euler(velocity: Field, x: Tensor, sigmas: np.ndarray) -> Tensor:
    """First order."""
    for sigma, sigma_next in _steps(sigmas):
        x = ode_step(x, velocity(x, sigma), sigma, sigma_next)
    return x


def ab2(velocity: Field, x: Tensor, sigmas: np.ndarray) -> Tensor:
    """Adams-Bashforth of second order with variable steps: x + h ((1 + r/2) v_n - r/2 v_(n-1)), r = h_n / h_(n-1)."""
    previous: tuple[Tensor, float] | None = None
    for sigma, sigma_next in _steps(sigmas):
        v, h = velocity(x, sigma), sigma_next - sigma
        if previous is None:
            x = x + h * v
        else:
            v_before, h_before = previous
            r = h / h_before
            x = x + (h * (1 + r / 2)) * v - (h * r / 2) * v_before
        previous = v, h
    return x


def dpmpp2m(velocity: Field, x: Tensor, sigmas: np.ndarray) -> Tensor:
    """DPM-Solver++(2M), midpoint form, on x0_hat (arXiv 2211.01095; rectified flow: alpha = 1 - sigma).

    First and last step are of first order, and so is the one after sigma = 1 where the log-SNR is infinite.
    """
    before: tuple[Tensor, float] | None = None
    for sigma, sigma_next in _steps(sigmas):
        data = x - sigma * velocity(x, sigma)
        h = _log_snr(sigma_next) - _log_snr(sigma)
        estimate = data
        if before is not None and sigma_next > sigmas[-1] and math.isfinite(before[1]):
            estimate = data + (h / (2 * before[1])) * (data - before[0])
        share = sigma_next / sigma
        x = share * x + (1 - share) * estimate
        before = data, h
    return x


TAILS: dict[str, Solver] = {"euler": euler, "ab2": ab2, "dpmpp2m": dpmpp2m}


def solver(name: str) -> Solver:
    """The solver of a name. Raises SamplingError naming the known ones."""
    if name not in TAILS:
        raise SamplingError(f"Unknown tail {name!r}; choose one of {', '.join(sorted(TAILS))}.")
    return TAILS[name]


def _steps(sigmas: np.ndarray) -> list[tuple[float, float]]:
    values = [float(s) for s in sigmas]
    return list(pairwise(values))


def _log_snr(sigma: float) -> float:
    if sigma <= 0:
        return math.inf
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
