"""Laws that every transition kernel obeys, whatever its numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foundation.transitions import TRANSITIONS, Transition, kl, ode_step, transition

levels = st.floats(0.05, 0.95)
# Pure noise is a case of its own; just below it the diffusion of Flow-SDE grows beyond all use.
levels_or_noise = levels | st.just(1.0)
shares = st.floats(0.05, 0.95)
noise_levels = st.floats(0.1, 1.0)
seeds = st.integers(0, 10**6)
kinds = pytest.mark.parametrize("kind", sorted(TRANSITIONS))
few = settings(max_examples=25, deadline=None)


def states(seed: int, count: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, dtype=dtype, generator=generator) for _ in range(count)]


@kinds
@given(seed=seeds, sigma=st.floats(0.01, 1.0), share=st.floats(0.0, 0.99))
@few
def test_no_noise_is_the_ode(kind: str, seed: int, sigma: float, share: float) -> None:
    x, v = states(seed)
    found = transition(kind, x, v, sigma, sigma * share, 0.0)
    assert found.std == 0
    torch.testing.assert_close(found.mean, ode_step(x, v, sigma, sigma * share), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found.draw(torch.ones_like(x)), found.mean, atol=0, rtol=0)


@kinds
@given(seed=seeds, sigma=levels, share=shares, noise_level=noise_levels)
@few
def test_0_d_tensors_are_numbers(kind: str, seed: int, sigma: float, share: float, noise_level: float) -> None:
    x, v = states(seed)
    sigma_next = sigma * share
    plain = transition(kind, x, v, sigma, sigma_next, noise_level)
    first, second = (torch.tensor(level, dtype=torch.float64) for level in (sigma, sigma_next))
    boxed = transition(kind, x, v, first, second, noise_level)
    assert plain.std == boxed.std
    assert torch.equal(plain.mean, boxed.mean)


@kinds
@given(seed=seeds, sigma=levels_or_noise, share=shares, noise_level=noise_levels)
@few
def test_replaying_a_draw_gives_a_ratio_of_one_and_its_gradient(
    kind: str, seed: int, sigma: float, share: float, noise_level: float
) -> None:
    x, v, noise = states(seed, 3, torch.float32)
    drawn = transition(kind, x, v, sigma, sigma * share, noise_level)
    x_next = drawn.draw(noise)
    velocity = v.clone().requires_grad_()
    again = transition(kind, x, velocity, sigma, sigma * share, noise_level)
    ratio = torch.exp(again.log_prob(x_next) - drawn.log_prob(x_next))
    assert torch.equal(ratio, torch.ones(2))
    # d log p / d mean = eps / std on every element, divided by their number.
    (slope,) = torch.autograd.grad(again.log_prob(x_next).sum(), again.mean)
    torch.testing.assert_close(slope, noise / (drawn.std * 12), atol=1e-4 / drawn.std, rtol=1e-4)


@kinds
@given(seed=seeds, sigma=levels_or_noise, share=shares, noise_level=noise_levels, shift=st.floats(0.01, 2))
@few
def test_kl_is_positive_and_zero_between_equals(
    kind: str, seed: int, sigma: float, share: float, noise_level: float, shift: float
) -> None:
    x, v, other = states(seed, 3)
    new, old, moved = (
        transition(kind, x, velocity, sigma, sigma * share, noise_level) for velocity in (v, v, v + shift * other)
    )
    assert torch.equal(kl(new, old), torch.zeros(2, dtype=torch.float64))
    # Without any old noise left ("exponential" at sigma = 1), the mean still holds the data estimate.
    assert (kl(moved, old) > 0).all()
    torch.testing.assert_close(kl(moved, old), kl(old, moved))
    torch.testing.assert_close(kl(moved, old, "sum"), 12 * kl(moved, old))


@given(seed=seeds, std=st.floats(0.05, 2), shift=st.floats(-1, 1))
@few
def test_kl_is_the_expected_log_ratio(seed: int, std: float, shift: float) -> None:
    """Under the new transition; antithetic draws make the expectation exact."""
    mean, noise = states(seed)
    new, old = Transition(mean + shift, std), Transition(mean, std)
    log_ratios = [new.log_prob(x) - old.log_prob(x) for x in (new.draw(noise), new.draw(-noise))]
    torch.testing.assert_close(sum(log_ratios) / 2, kl(new, old), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", ["cps", "exponential", "exponential_dance"])
@given(sigma=levels_or_noise, share=shares, noise_level=noise_levels, data=st.floats(-3, 3))
@few
def test_the_marginals_are_kept(kind: str, sigma: float, share: float, noise_level: float, data: float) -> None:
    """With the true x0 and eps, the next state has mean (1 - s') x0 and variance s'^2 in total."""
    sigma_next = sigma * share
    x0 = torch.full((1, 1), data, dtype=torch.float64)
    at = [transition(kind, (1 - sigma) * x0 + sigma * e, e - x0, sigma, sigma_next, noise_level) for e in (0.0, 1.0)]
    assert at[0].mean.item() == pytest.approx((1 - sigma_next) * data, abs=1e-12)
    slope = (at[1].mean - at[0].mean).item()
    assert slope**2 + at[0].std ** 2 == pytest.approx(sigma_next**2)


@pytest.mark.parametrize("kind", ["exponential", "exponential_dance"])
@given(sigma=levels_or_noise, first=st.floats(0.1, 0.9), second=st.floats(0.1, 0.9), noise_level=noise_levels)
@few
def test_exponential_steps_compose(kind: str, sigma: float, first: float, second: float, noise_level: float) -> None:
    """Two steps with the data estimate frozen are one: mean and variance."""
    middle, last = sigma * first, sigma * first * second
    x0, eps = torch.full((1, 1), 0.3, dtype=torch.float64), torch.full((1, 1), -1.2, dtype=torch.float64)

    def step(kept: Tensor, s: float, s_next: float) -> Transition:
        return transition(kind, (1 - s) * x0 + s * kept, kept - x0, s, s_next, noise_level)

    whole, half = step(eps, sigma, last), step(eps, sigma, middle)
    rest = step((half.mean - (1 - middle) * x0) / middle, middle, last)
    kept = math.sqrt(max(0.0, 1 - (rest.std / last) ** 2))
    assert rest.mean.item() == pytest.approx(whole.mean.item())
    assert math.hypot(rest.std, last * kept * half.std / middle) == pytest.approx(whole.std)


@pytest.mark.parametrize(("exact", "euler"), [("exponential", "flow_sde"), ("exponential_dance", "dance_sde")])
@given(sigma=st.floats(0.2, 0.9), noise_level=noise_levels)
@few
def test_the_integrators_and_their_euler_steps_agree_in_small_steps(
    exact: str, euler: str, sigma: float, noise_level: float
) -> None:
    x, v = states(1)

    def differ(dt: float) -> float:
        one, other = (transition(kind, x, v, sigma, sigma - dt, noise_level) for kind in (exact, euler))
        return max((one.mean - other.mean).abs().max().item(), abs(one.std**2 - other.std**2))

    assert differ(1e-5) < 0.05 * differ(1e-4) + 1e-12


@pytest.mark.parametrize(
    ("kind", "squared_diffusion"),
    [
        ("flow_sde", lambda s, a: a**2 * s / (1 - s)),
        ("dance_sde", lambda s, a: a**2),
        ("exponential", lambda s, a: a**2 * s / (1 - s)),
        ("exponential_dance", lambda s, a: a**2),
    ],
)
@given(sigma=st.floats(0.2, 0.9), noise_level=noise_levels)
@few
def test_the_noise_per_step_is_the_diffusion(
    kind: str, squared_diffusion: Callable[[float, float], float], sigma: float, noise_level: float
) -> None:
    x, v = states(2)
    found = transition(kind, x, v, sigma, sigma - 1e-6, noise_level)
    assert found.std**2 / 1e-6 == pytest.approx(squared_diffusion(sigma, noise_level), rel=1e-3)
