"""Kernels against golden transitions, and laws they must obey for any input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import SamplingError
from foundation.transitions import (
    TRANSITIONS,
    Transition,
    exponential,
    exponential_dance,
    flow_sde,
    gaussian_kl,
    kernel,
    log_density,
    ode_step,
)
from tests.foundation.conftest import read_json

GOLDEN = read_json("sde.json")
NAMES = {"flow": "flow_sde", "dance": "dance_sde", "cps": "cps"}
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 2e-6)]

levels = st.floats(0.05, 0.95)
noise_levels = st.floats(0.1, 1.0)


def tensors(source: dict, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(source[key], dtype=dtype) for key in ("x", "v", "prev"))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["id"])
def test_golden_cases(case: dict, dtype: torch.dtype, tolerance: float) -> None:
    inputs, expected = case["inputs"], case["reference_fp64"]
    x, v, x_next = tensors(inputs, dtype)
    step = TRANSITIONS[NAMES[case["kind"]]]
    transition = step(x, v, inputs["sigma"], inputs["sigma_next"], case["eta"], case["sigmas"][1])
    assert transition.std == pytest.approx(expected["std"], abs=tolerance)
    torch.testing.assert_close(transition.mean, torch.tensor(expected["mean"], dtype=dtype), atol=tolerance, rtol=0)
    density = torch.tensor(expected["logprob_gaussian"], dtype=dtype)
    torch.testing.assert_close(log_density(x_next, transition), density, atol=tolerance, rtol=0)
    drawn = transition.draw(torch.tensor(inputs["eps"], dtype=dtype))
    torch.testing.assert_close(drawn, x_next, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("index", range(8))
def test_golden_exponential_integrator(index: int, dtype: torch.dtype, tolerance: float) -> None:
    case = GOLDEN["exponential_integrator"][index]
    x, v, x_next = tensors(case, dtype)
    step = {"flow": exponential, "dance": exponential_dance}[case["kind"]]
    transition = step(x, v, case["sigma"], case["sigma_next"], case["eta"], math.nan)
    assert transition.std == pytest.approx(case["std"], abs=tolerance)
    torch.testing.assert_close(transition.mean, torch.tensor(case["mean"], dtype=dtype), atol=tolerance, rtol=0)
    density = torch.tensor(case["logprob"], dtype=dtype)
    torch.testing.assert_close(log_density(x_next, transition), density, atol=tolerance, rtol=0)


def test_flow_sde_by_hand() -> None:
    # sigma .5 -> .4, a = 1: g^2 = .5 / .5 = 1, dt = -.1, so mean = x (1 - .1) - .1 v (1 + .5) and std = sqrt(.1).
    transition = flow_sde(torch.tensor([[2.0]]), torch.tensor([[1.0]]), 0.5, 0.4, 1.0, 0.9)
    assert transition.mean.item() == pytest.approx(2 * 0.9 - 0.15)
    assert transition.std == pytest.approx(math.sqrt(0.1))


@pytest.mark.parametrize("name", sorted(TRANSITIONS))
@given(sigma=st.floats(0.01, 1.0), share=st.floats(0.01, 0.99))
@settings(max_examples=25, deadline=None)
def test_no_noise_is_the_ode(name: str, sigma: float, share: float) -> None:
    x, v = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    transition = TRANSITIONS[name](x, v, sigma, sigma * share, 0.0, 0.95)
    assert transition.std == 0
    torch.testing.assert_close(transition.mean, ode_step(x, v, sigma, sigma * share), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["cps", "exponential", "exponential_dance"])
@given(sigma=levels, share=st.floats(0.05, 0.95), noise_level=noise_levels)
@settings(max_examples=25, deadline=None)
def test_marginal_preserving_kernels(name: str, sigma: float, share: float, noise_level: float) -> None:
    """With the true x0 and eps, the next state has mean (1 - s') x0 and variance s'^2 in total."""
    x0, sigma_next = torch.ones(1, 1, dtype=torch.float64), sigma * share
    step = TRANSITIONS[name]
    with_zero = step((1 - sigma) * x0, -x0, sigma, sigma_next, noise_level, 0.95)
    with_one = step((1 - sigma) * x0 + sigma, 1 - x0, sigma, sigma_next, noise_level, 0.95)
    assert with_zero.mean.item() == pytest.approx(1 - sigma_next)
    slope = (with_one.mean - with_zero.mean).item()
    assert slope**2 + with_zero.std**2 == pytest.approx(sigma_next**2)


@pytest.mark.parametrize("step", [exponential, exponential_dance])
@given(sigma=levels, first=st.floats(0.1, 0.9), second=st.floats(0.1, 0.9), noise_level=noise_levels)
@settings(max_examples=25, deadline=None)
def test_exponential_steps_compose(step, sigma: float, first: float, second: float, noise_level: float) -> None:
    middle, last = sigma * first, sigma * first * second
    x0, eps = torch.full((1, 1), 0.3, dtype=torch.float64), torch.full((1, 1), -1.2, dtype=torch.float64)
    x = (1 - sigma) * x0 + sigma * eps
    whole = step(x, eps - x0, sigma, last, noise_level, 0.95)
    half = step(x, eps - x0, sigma, middle, noise_level, 0.95)
    eps_after = (half.mean - (1 - middle) * x0) / middle
    rest = step(half.mean, eps_after - x0, middle, last, noise_level, 0.95)
    kept = math.sqrt(max(0.0, 1 - (rest.std / last) ** 2))
    assert rest.mean.item() == pytest.approx(whole.mean.item())
    assert math.hypot(rest.std, last * kept * half.std / middle) == pytest.approx(whole.std)


def test_log_density_is_the_normal_density() -> None:
    mean, x_next = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    transition = Transition(mean, 0.3)
    elements = torch.distributions.Normal(mean, 0.3).log_prob(x_next).flatten(1)
    torch.testing.assert_close(log_density(x_next, transition), elements.mean(1))
    torch.testing.assert_close(log_density(x_next, transition, "sum"), elements.sum(1))


def test_kl_is_the_kl_of_normals() -> None:
    a, b = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    normal = torch.distributions.Normal
    elements = torch.distributions.kl_divergence(normal(a, 0.2), normal(b, 0.2)).flatten(1)
    torch.testing.assert_close(gaussian_kl(Transition(a, 0.2), Transition(b, 0.2)), elements.mean(1))
    torch.testing.assert_close(gaussian_kl(Transition(a, 0.2), Transition(b, 0.2), "sum"), elements.sum(1))


def test_density_of_a_certain_step_is_refused() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(SamplingError, match="no density"):
        log_density(x, TRANSITIONS["cps"](x, x, 0.5, 0.0, 0.8, 0.95))
    with pytest.raises(SamplingError, match="one positive std"):
        gaussian_kl(Transition(x, 0.1), Transition(x, 0.2))


def test_unknown_transition_names_the_known() -> None:
    with pytest.raises(SamplingError, match=r"flow_sdee.*flow_sde"):
        kernel("flow_sdee")
