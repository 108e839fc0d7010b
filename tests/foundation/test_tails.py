"""Grids and deterministic solvers: exact cases, orders of convergence, the golden DPM-Solver++ trail."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.errors import SamplingError
from foundation.grids import grid, inference, official_rl, respace
from foundation.tails import TAILS, ab2, dpmpp2m, euler, solver
from tests.foundation.conftest import read_json


def growth(x: Tensor, sigma: float) -> Tensor:
    """dx / dsigma = x, so x(0) = x(1) / e."""
    return x


def error(name: str, steps: int) -> float:
    x = TAILS[name](growth, torch.ones(1, dtype=torch.float64), np.linspace(1, 0, steps + 1))
    return abs(x.item() - math.exp(-1))


def test_grids_by_hand() -> None:
    assert official_rl(3).tolist() == [1.0, 0.5005, 0.001, 0.0]
    assert inference(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert grid("official_rl", 24)[1] == pytest.approx(0.9565652)
    assert respace(inference(8)[2:], 3).tolist() == [0.75, 0.5, 0.25, 0.0]
    assert respace(official_rl(3), 3).tolist() == official_rl(3).tolist()
    assert respace(official_rl(3), None).tolist() == official_rl(3).tolist()


@pytest.mark.parametrize("make", [lambda: grid("linear", 4), lambda: inference(0), lambda: official_rl(1)])
def test_impossible_grids(make) -> None:
    with pytest.raises(SamplingError):
        make()


def test_unknown_tail() -> None:
    with pytest.raises(SamplingError, match="ab2"):
        solver("heun")


@pytest.mark.parametrize("name", sorted(TAILS))
def test_straight_paths_are_exact(name: str) -> None:
    # Constant velocity: any solver lands on x - v in any number of steps, even or not.
    x, v = torch.tensor([0.4], dtype=torch.float64), torch.tensor([1.7], dtype=torch.float64)
    for sigmas in (np.array([1.0, 0.0]), np.array([1.0, 0.6, 0.5, 0.0]), official_rl(5)):
        assert TAILS[name](lambda x, sigma: v, x, sigmas).item() == pytest.approx(-1.3)


def test_first_step_is_euler_for_all() -> None:
    sigmas = np.array([0.8, 0.0])
    x = torch.tensor([1.0, -2.0])
    for name, solve in TAILS.items():
        torch.testing.assert_close(solve(growth, x, sigmas), euler(growth, x, sigmas), msg=name)


def test_ab2_by_hand() -> None:
    # v(sigma) = sigma: Euler 1 -> .5 takes x to -.5; then h = -.5, r = 1: x += -.5 (1.5 * .5 - .5 * 1) = -.125.
    x = ab2(lambda x, sigma: torch.tensor([sigma]), torch.zeros(1), np.array([1.0, 0.5, 0.0]))
    assert x.item() == pytest.approx(-0.625)


def test_ab2_with_uneven_steps_follows_a_quadratic_after_its_first_step() -> None:
    # dx / dsigma = sigma is integrated exactly by every two-step formula, whatever the steps.
    sigmas = np.array([1.0, 0.7, 0.6, 0.25, 0.0])
    x = ab2(lambda x, sigma: torch.tensor([sigma], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), sigmas)
    after_euler = -0.3
    assert x.item() == pytest.approx(after_euler + (0.0 - 0.7**2) / 2)


def test_orders_of_convergence() -> None:
    assert error("euler", 40) / error("euler", 80) == pytest.approx(2, abs=0.15)
    assert error("ab2", 40) / error("ab2", 80) == pytest.approx(4, abs=0.4)
    assert error("ab2", 16) < error("euler", 64)


@pytest.mark.parametrize(
    "case", read_json("sde.json")["dpm_tail"], ids=lambda case: f"{case['grid']}-{case['inputs']['order']}"
)
def test_golden_dpm_trail(case: dict) -> None:
    inputs, sigmas = case["inputs"], np.array(case["sigmas"][case["inputs"]["start"] :])
    solve = dpmpp2m if inputs["order"] == 2 else euler
    x, b = torch.tensor(inputs["x"]), torch.tensor(inputs["b"])
    states: list[Tensor] = []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        states.append(x)
        return inputs["a"] * x + 0.1 * b

    states.append(solve(velocity, x, sigmas))
    for trail in case["outputs"].values():
        torch.testing.assert_close(torch.stack(states), torch.tensor(trail), atol=5e-6, rtol=0)


def test_dpm_from_pure_noise_is_finite() -> None:
    assert torch.isfinite(dpmpp2m(growth, torch.ones(1), inference(6))).all()


@pytest.mark.parametrize("name", sorted(TAILS))
def test_one_evaluation_a_step_and_no_memory_of_what_came_before(name: str) -> None:
    """A tail begins anew behind a stochastic step: the same end from the same state, whatever was solved before."""
    calls: list[float] = []

    def counted(x: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        return growth(x, sigma)

    sigmas, x = inference(6)[2:], torch.tensor([0.3, -1.0])
    first = TAILS[name](counted, x, sigmas)
    assert calls == sigmas[:-1].tolist()
    TAILS[name](growth, 5 * x, inference(3))
    assert torch.equal(TAILS[name](growth, x, sigmas), first)


@pytest.mark.parametrize("name", sorted(TAILS))
def test_no_steps_leave_the_state(name: str) -> None:
    x = torch.tensor([0.3])
    assert torch.equal(TAILS[name](growth, x, np.array([0.0])), x)
