"""Whole-trajectory solvers: rates of convergence on flows solved by hand, guidance intervals, evaluations."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.errors import SamplingError
from foundation.grids import inference
from foundation.solvers import SOLVERS, Guidance, evaluations, integrate, solver
from foundation.tails import Field, euler

MEAN, SPREAD = 0.7, 0.5


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Velocity of the flow from N(0, 1) to N(MEAN, SPREAD^2), from the conditional expectation by hand.

    The marginal at sigma is N((1 - sigma) m, S^2) with S^2 = (1 - sigma)^2 s^2 + sigma^2; hence the path of z is
    (1 - sigma) m + S z, and its derivative in terms of x is what stands here.
    """
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return -MEAN + (x - (1 - sigma) * MEAN) / variance * (sigma - (1 - sigma) * SPREAD**2)


def square(x: Tensor, sigma: float) -> Tensor:
    """dx / dsigma = x^2: 1/x grows by 1 from sigma = 1 to 0."""
    return x * x


PROBLEMS: dict[str, tuple[Field, float, float]] = {
    "gaussian": (gaussian, 1.3, MEAN + SPREAD * 1.3),
    "square": (square, 1.0, 0.5),
}
ORDERS = {"euler": 1, "ab2": 2, "dpmpp2m": 2, "midpoint": 2, "heun": 2, "abm3": 3}


def error(name: str, problem: str, steps: int) -> float:
    field, start, end = PROBLEMS[problem]
    return abs(solver(name)(field, torch.tensor([start], dtype=torch.float64), inference(steps)).item() - end)


def rate(name: str, problem: str) -> float:
    """Halving the steps divides the error by 2 to this power."""
    return math.log2(error(name, problem, 128) / error(name, problem, 256))


# The steps of dpmpp2m are infinite in log-SNR at both ends of a grid; its order shows between them.
@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - {"dpmpp2m"}))
def test_rates_of_convergence(name: str) -> None:
    assert rate(name, "square") == pytest.approx(ORDERS[name], abs=0.1)
    assert rate(name, "gaussian") > ORDERS[name] - 0.1


def test_rate_of_convergence_between_the_ends() -> None:
    start, end = torch.tensor([1 / 1.1], dtype=torch.float64), 1 / 1.9  # of the path 1 / (2 - sigma)
    found = [solver("dpmpp2m")(square, start, np.linspace(0.9, 0.1, n + 1)).item() - end for n in (128, 256)]
    assert math.log2(found[0] / found[1]) == pytest.approx(ORDERS["dpmpp2m"], abs=0.15)


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_more_per_evaluation_than_euler(problem: str) -> None:
    for name in SOLVERS.keys() - {"euler"}:
        steps = 12 if name in ("midpoint", "heun") else 24
        assert error(name, problem, steps) < 0.5 * error("euler", problem, 24), name


def test_one_step_by_hand() -> None:
    x = torch.tensor([2.0])
    end = np.array([1.0, 0.5])
    # square from 2 with h = -.5: Euler 0; the middle of it is 1, so midpoint 2 - .5; Heun averages 4 and 0.
    assert solver("midpoint")(square, x, end).item() == 1.5
    assert solver("heun")(square, x, end).item() == 1.0
    assert solver("abm3")(square, x, end).item() == 0.0


def test_abm3_is_exact_for_a_parabola_behind_its_first_steps() -> None:
    # v = sigma^2, uneven steps: from the third node on, the corrected state has the exact increment of sigma^3 / 3.
    def field(x: Tensor, sigma: float) -> Tensor:
        return torch.tensor([sigma**2], dtype=torch.float64)

    sigmas = np.array([1.0, 0.8, 0.5, 0.4])
    found = solver("abm3")(field, torch.zeros(1, dtype=torch.float64), sigmas).item()
    trapezoid = -0.2 * (1 + 0.64) / 2
    parabola = (0.5**3 - 0.8**3) / 3
    predicted = -0.1 * 0.25 + 0.1**2 / 2 * (0.25 - 0.64) / (0.5 - 0.8)
    assert found == pytest.approx(trapezoid + parabola + predicted, abs=1e-14)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_straight_paths_are_exact_and_no_steps_do_nothing(name: str) -> None:
    x, v = torch.tensor([0.4], dtype=torch.float64), torch.tensor([1.7], dtype=torch.float64)
    for sigmas in (np.array([1.0, 0.0]), np.array([1.0, 0.6, 0.5, 0.0])):
        assert solver(name)(lambda x, sigma: v, x, sigmas).item() == pytest.approx(-1.3)
    assert torch.equal(solver(name)(square, x, np.array([0.0])), x)


def counting(calls: list[tuple[float, float]]) -> Callable[[float], Field]:
    def field(scale: float) -> Field:
        def velocity(x: Tensor, sigma: float) -> Tensor:
            calls.append((scale, sigma))
            return scale * x

        return velocity

    return field


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.8), (0.0, 0.5), (0.5, 1.0), (0.6, 0.6)])
def test_evaluations_are_those_made(name: str, interval: tuple[float, float]) -> None:
    guidance, calls = Guidance(5.0, interval), []
    integrate(name, counting(calls), torch.ones(1), inference(10), guidance)
    assert evaluations(name, inference(10), guidance) == sum(1 if scale == 1 else 2 for scale, _ in calls)


def test_guidance_acts_only_in_its_interval() -> None:
    guidance, calls = Guidance(5.0, (0.25, 0.75)), []
    x = torch.ones(1, dtype=torch.float64)
    found = integrate("euler", counting(calls), x, inference(4), guidance)
    assert calls == [(1.0, 1.0), (5.0, 0.75), (5.0, 0.5), (1.0, 0.25)]
    assert found.item() == pytest.approx(0.75 * (-0.25) * (-0.25) * 0.75)


def test_no_history_crosses_a_jump_of_the_field() -> None:
    guidance, x, sigmas = Guidance(3.0, (0.5, 1.0)), torch.tensor([0.3]), inference(8)
    for name, solve in SOLVERS.items():
        there = solve(lambda x, s: 3 * x, x, sigmas[:5])
        assert torch.equal(integrate(name, counting([]), x, sigmas, guidance), solve(lambda x, s: x, there, sigmas[4:]))


def test_guidance_everywhere_is_one_stretch() -> None:
    x = torch.tensor([0.3])
    whole = integrate("abm3", counting([]), x, inference(8), Guidance(2.0))
    assert torch.equal(whole, SOLVERS["abm3"](lambda x, s: 2 * x, x, inference(8)))
    assert torch.equal(integrate("euler", counting([]), x, inference(8)), euler(lambda x, s: x, x, inference(8)))


def test_unknown_solvers_are_named() -> None:
    with pytest.raises(SamplingError, match=r"'rk45'.*abm3.*heun"):
        integrate("rk45", counting([]), torch.ones(1), inference(2))
