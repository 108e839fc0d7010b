"""Kernels against golden transitions and numbers by hand; what has no density is refused."""

import math

import pytest
import torch
from torch import Tensor

from foundation.errors import SamplingError
from foundation.transitions import TRANSITIONS, Transition, kl, transition
from tests.foundation.conftest import read_json

GOLDEN = read_json("sde.json")
NAMES = {"flow": "flow_sde", "dance": "dance_sde", "cps": "cps"}
INTEGRATORS = {"flow": "exponential", "dance": "exponential_dance"}
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 2e-6)]


def tensors(source: dict, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(source[key], dtype=dtype) for key in ("x", "v", "prev"))


def near(found: Tensor, expected: list, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["id"])
def test_golden_transitions(case: dict, dtype: torch.dtype, tolerance: float) -> None:
    inputs, expected = case["inputs"], case["reference_fp64"]
    x, v, x_next = tensors(inputs, dtype)
    found = transition(NAMES[case["kind"]], x, v, inputs["sigma"], inputs["sigma_next"], case["eta"])
    assert found.std == pytest.approx(expected["std"], abs=tolerance)
    near(found.mean, expected["mean"], tolerance)
    near(found.log_prob(x_next), expected["logprob_gaussian"], tolerance)
    near(found.draw(torch.tensor(inputs["eps"], dtype=dtype)), inputs["prev"], 2e-6)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["id"])
def test_golden_transitions_as_their_authors_run_them(case: dict) -> None:
    inputs, official = case["inputs"], case["official"]
    x, v, x_next = tensors(inputs, torch.float32)
    found = transition(NAMES[case["kind"]], x, v, inputs["sigma"], inputs["sigma_next"], case["eta"])
    near(found.mean, official["mean"], 2e-6)
    assert found.std == pytest.approx(torch.tensor(official["std"]).flatten()[0].item(), abs=2e-6)
    if case["kind"] != "cps":  # theirs leaves the normaliser out
        near(found.log_prob(x_next), official["logprob"], 2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("index", range(len(GOLDEN["exponential_integrator"])))
def test_golden_exponential_integrator(index: int, dtype: torch.dtype, tolerance: float) -> None:
    case = GOLDEN["exponential_integrator"][index]
    x, v, x_next = tensors(case, dtype)
    found = transition(INTEGRATORS[case["kind"]], x, v, case["sigma"], case["sigma_next"], case["eta"])
    assert found.std == pytest.approx(case["std"], abs=tolerance)
    near(found.mean, case["mean"], tolerance)
    near(found.log_prob(x_next), case["logprob"], tolerance)


def test_flow_sde_by_hand() -> None:
    # sigma .5 -> .4, a = 1: g^2 = .5 / .5 = 1, dt = -.1, so mean = x (1 - .1) - .1 v (1 + .5) and std = sqrt(.1).
    found = transition("flow_sde", torch.tensor([[2.0]]), torch.tensor([[1.0]]), 0.5, 0.4, 1.0)
    assert found.mean.item() == pytest.approx(2 * 0.9 - 0.15)
    assert found.std == pytest.approx(math.sqrt(0.1))


def test_flow_sde_at_pure_noise_uses_the_next_level_in_the_pole() -> None:
    # sigma 1 -> .9, a = .5: g^2 = .25 * 1 / (1 - .9) = 2.5, dt = -.1: mean = x (1 - .125) - .1 v, std = sqrt(.25).
    found = transition("flow_sde", torch.tensor([[2.0]]), torch.tensor([[1.0]]), 1.0, 0.9, 0.5)
    assert found.mean.item() == pytest.approx(2 * 0.875 - 0.1)
    assert found.std == pytest.approx(0.5)


def test_cps_by_hand() -> None:
    # a = 1/3: a sixth of a turn, so cos = sqrt(3)/2, sin = 1/2; x0 = 2 - .5 = 1.5, eps = 2 + .5 = 2.5.
    found = transition("cps", torch.tensor([[2.0]]), torch.tensor([[1.0]]), 0.5, 0.4, 1 / 3)
    assert found.mean.item() == pytest.approx(0.6 * 1.5 + 0.4 * math.sqrt(3) / 2 * 2.5)
    assert found.std == pytest.approx(0.2)


def test_log_prob_is_the_normal_density() -> None:
    mean, x_next = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    found = Transition(mean, 0.3)
    elements = torch.distributions.Normal(mean, 0.3).log_prob(x_next).flatten(1)
    torch.testing.assert_close(found.log_prob(x_next), elements.mean(1))
    torch.testing.assert_close(found.log_prob(x_next, reduce="mean"), elements.mean(1))
    torch.testing.assert_close(found.log_prob(x_next, reduce="sum"), elements.sum(1))


def test_kl_is_the_kl_of_normals() -> None:
    a, b = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    normal = torch.distributions.Normal
    elements = torch.distributions.kl_divergence(normal(a, 0.2), normal(b, 0.2)).flatten(1)
    torch.testing.assert_close(kl(Transition(a, 0.2), Transition(b, 0.2)), elements.mean(1))
    torch.testing.assert_close(kl(Transition(a, 0.2), Transition(b, 0.2), reduce="sum"), elements.sum(1))


def test_a_certain_step_has_no_density() -> None:
    x = torch.zeros(1, 2)
    certain = transition("cps", x, x, 0.5, 0.0, 0.8)
    with pytest.raises(SamplingError, match="no density"):
        certain.log_prob(x)
    with pytest.raises(SamplingError, match="one positive std"):
        kl(certain, certain)
    with pytest.raises(SamplingError, match="one positive std"):
        kl(Transition(x, 0.1), Transition(x, 0.2))


@pytest.mark.parametrize(("sigma", "sigma_next"), [(0.5, 0.5), (0.4, 0.5), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_levels_out_of_order_are_refused(sigma: float, sigma_next: float) -> None:
    with pytest.raises(SamplingError, match="must fall within"):
        transition("flow_sde", torch.zeros(1, 2), torch.zeros(1, 2), sigma, sigma_next, 0.7)


def test_unknown_transition_names_the_known() -> None:
    with pytest.raises(SamplingError, match=rf"flow_sdee.*{', '.join(sorted(TRANSITIONS))}"):
        transition("flow_sdee", torch.zeros(1, 2), torch.zeros(1, 2), 0.5, 0.4, 0.7)
