"""The hybrid sampler against the naive way, and an exact count of evaluations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foundation.errors import SamplingError
from foundation.grids import inference, official_rl, respace
from foundation.model import FlowModel
from foundation.sampling import group_noise, hybrid_sample, member_noise, ode_sample
from foundation.tails import TAILS
from foundation.transitions import transition
from tests.foundation.conftest import random_conditions

SHAPE = (3, 5)


def curved(x: Tensor, sigma: Tensor) -> Tensor:
    """A velocity that acts on each element alone, so batching cannot change a bit."""
    return torch.sin(3 * x) * (1 + float(sigma)) - 0.5 * x


class Counting:
    """Notes the rows and the noise level of every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float]] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert isinstance(sigma, Tensor)
        assert sigma.shape == ()
        assert sigma.dtype == x.dtype
        self.calls.append((x.shape[0], float(sigma)))
        return curved(x, sigma)

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.calls)


def noises(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive(
    x: Tensor, s: np.ndarray, start: int, draws: Tensor, kind: str, tail: str, tail_steps: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One sample of one item (C, L), nothing shared: window states, means, log-densities and the end."""
    x = x[None]
    for i in range(start):
        x = x + float(s[i + 1] - s[i]) * curved(x, torch.tensor(float(s[i])))
    states, means, densities = [x[0]], [], []
    for k, draw in enumerate(draws):
        sigma, sigma_next = float(s[start + k]), float(s[start + k + 1])
        step = transition(kind, x, curved(x, torch.tensor(sigma)), sigma, sigma_next, 0.7)
        x = step.draw(draw[None])
        states.append(x[0])
        means.append(step.mean[0])
        densities.append(step.log_prob(x)[0])
    rest = respace(s[start + len(draws) :], tail_steps)
    x = TAILS[tail](lambda x, sigma: curved(x, torch.tensor(sigma)), x, rest)
    return torch.stack(states), torch.stack(means), torch.stack(densities), x[0]


@given(
    items=st.integers(1, 3),
    members=st.integers(1, 4),
    steps=st.integers(3, 9),
    width=st.integers(1, 8),
    at=st.floats(0, 1),
    tail=st.sampled_from(sorted(TAILS)),
    tail_steps=st.sampled_from([None, 1, 2, 4]),
    kind=st.sampled_from(["flow_sde", "cps", "exponential"]),
    make=st.sampled_from([inference, official_rl]),
)
@settings(max_examples=60, deadline=None)
def test_sharing_changes_nothing_but_the_count(items, members, steps, width, at, tail, tail_steps, kind, make) -> None:
    width = min(width, steps - 1)
    start = round(at * (steps - 1 - width))
    x, draws, sigmas = noises(0, items, *SHAPE), noises(1, width, items * members, *SHAPE), make(steps)
    counting = Counting()
    final, record = hybrid_sample(
        counting, x, sigmas, (start, width), kind, 0.7, members, draws, tail=tail, tail_steps=tail_steps
    )

    assert record.latents.shape == (width + 1, items * members, *SHAPE)
    assert record.sigmas.tolist() == sigmas[start : start + width + 1].tolist()
    for row in range(items * members):
        found = record.latents[:, row], record.means[:, row], record.log_probs[:, row], final[row]
        # Item-fastest: row m * items + b is member m of item b.
        expected = naive(x[row % items], sigmas, start, draws[:, row], kind, tail, tail_steps)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    left = steps - start - width
    tail_calls = left if tail_steps is None else min(left, tail_steps)
    assert record.rows == counting.rows == items * (start + 1 + members * (width - 1 + tail_calls))
    assert [rows for rows, _ in counting.calls] == [items] * (start + 1) + [items * members] * (width - 1 + tail_calls)
    expected_levels = [*sigmas[: start + width], *respace(sigmas[start + width :], tail_steps)[:-1]]
    np.testing.assert_allclose([sigma for _, sigma in counting.calls], expected_levels, rtol=1e-6)


@given(prompts=st.integers(1, 3), branches=st.integers(1, 3), kind=st.sampled_from(["flow_sde", "exponential"]))
@settings(max_examples=10, deadline=None)
def test_more_members_do_not_change_the_first_ones(prompts: int, branches: int, kind: str) -> None:
    x, draws = noises(0, prompts, *SHAPE), noises(1, 2, 4 * prompts, *SHAPE)
    many, _ = hybrid_sample(curved, x, inference(6), (1, 2), kind, 0.7, 4, draws)
    few, _ = hybrid_sample(curved, x, inference(6), (1, 2), kind, 0.7, branches, draws[:, : branches * prompts])
    assert torch.equal(many[: branches * prompts], few)


def test_a_float_and_a_tensor_grid_are_one() -> None:
    x, draws = noises(0, 2, *SHAPE), noises(1, 1, 6, *SHAPE)
    of_numpy, _ = hybrid_sample(curved, x, inference(8), (2, 1), "flow_sde", 0.7, 3, draws)
    of_torch, _ = hybrid_sample(curved, x, torch.linspace(1, 0, 9), (2, 1), "flow_sde", 0.7, 3, draws)
    assert torch.equal(of_numpy, of_torch)


def test_without_noise_torch_draws_it() -> None:
    x, sampled = noises(0, 2, *SHAPE), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        sampled.append(hybrid_sample(curved, x, inference(6), (1, 2), "flow_sde", 0.7, 3)[0])
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])
    torch.manual_seed(3)
    given, _ = hybrid_sample(curved, x, inference(6), (1, 2), "flow_sde", 0.7, 3, torch.randn(2, 6, *SHAPE))
    assert torch.equal(sampled[0], given)


def test_the_last_window_step_may_end_at_zero() -> None:
    x, draws = noises(0, 1, *SHAPE), noises(1, 4, 2, *SHAPE)
    final, record = hybrid_sample(curved, x, inference(4), (0, 4), "flow_sde", 0.7, 2, draws)
    assert torch.equal(final, record.latents[-1])
    assert record.rows == 1 + 3 * 2


def test_count_of_the_fast_preset() -> None:
    # T = 16, w = 1, start 3, tail of 4: 3 + 1 per group, then 4 steps of 8 members.
    zeros = torch.zeros(12, *SHAPE), torch.zeros(1, 12 * 8, *SHAPE)
    _, record = hybrid_sample(curved, zeros[0], inference(16), (3, 1), "flow_sde", 0.7, 8, zeros[1], "ab2", 4)
    assert record.rows == 12 * 36


@pytest.mark.parametrize(("guidance", "each"), [(1.0, 1), (3.0, 2)])
@torch.no_grad()
def test_rows_are_what_the_transformer_sees(small_model: FlowModel, guidance: float, each: int) -> None:
    """A guided pair is two rows of the transformer, whatever the count says."""
    seen: list[int] = []
    hook = small_model.dit.transformer.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    prepared = small_model.prepare(small_model.condition(random_conditions(2), 32), 32, guidance)
    velocity = lambda x, sigma: small_model.velocity(x, sigma, prepared.tile(len(x) // 2))  # noqa: E731
    x = noises(0, 2, small_model.config.latent_channels, 32)
    _, record = hybrid_sample(velocity, x, inference(6), (2, 2), "flow_sde", 0.7, members=3, tail_steps=1)
    hook.remove()
    assert record.rows == 2 * (2 + 1) + 6 * (1 + 1)
    assert sum(seen) == record.rows * each == record.rows * prepared.nfe


def test_ode_sample_is_plain_euler() -> None:
    x = ode_sample(lambda x, sigma: x, torch.ones(2, *SHAPE), inference(4))
    assert x[0, 0, 0].item() == pytest.approx(0.75**4)
    counting = Counting()
    ode_sample(counting, torch.ones(2, *SHAPE), official_rl(4))
    np.testing.assert_allclose([sigma for _, sigma in counting.calls], official_rl(4)[:-1], rtol=1e-6)


def test_noise_is_a_pure_function_of_its_arguments() -> None:
    torch.manual_seed(1)
    first = group_noise(7, 3, 2, (27, 64))
    torch.manual_seed(2)
    assert torch.equal(first, group_noise(7, 3, 2, (27, 64)))
    others = [group_noise(*key, (27, 64)) for key in ((8, 3, 2), (7, 4, 2), (7, 3, 3), (73, 2, 0), (7, 32, 0))]
    others.append(member_noise(7, 3, 2, 1, 1, (27, 64))[0, 0])
    flat = torch.stack([first, *others]).flatten(1)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.1
    assert flat.std().item() == pytest.approx(1, abs=0.02)
    assert member_noise(7, 3, 2, 2, 4, SHAPE).shape == (2, 4, *SHAPE)


@pytest.mark.parametrize("window", [(-1, 1), (0, 0), (4, 1), (3, 2)])
def test_window_outside_the_grid(window: tuple[int, int]) -> None:
    with pytest.raises(SamplingError, match="does not lie within the 4 steps"):
        hybrid_sample(curved, torch.zeros(1, *SHAPE), inference(4), window, "flow_sde", 0.7)


@pytest.mark.parametrize("shape", [(1, 2, *SHAPE), (2, 8, *SHAPE), (1, 8, 3, 4)])
def test_noise_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(SamplingError, match=r"\(1, 8, 3, 5\)"):
        hybrid_sample(
            curved, torch.zeros(2, *SHAPE), inference(4), (0, 1), "flow_sde", 0.7, 4, noise=torch.zeros(shape)
        )


def test_certain_last_step_has_no_density() -> None:
    with pytest.raises(SamplingError, match="no density"):
        hybrid_sample(curved, torch.zeros(1, *SHAPE), inference(4), (3, 1), "cps", 0.8)


@pytest.mark.parametrize("at", [1.0, 0.5, 0.25])
def test_broken_velocity_is_an_error(at: float) -> None:
    """In the prefix, in the window or in the tail."""
    with pytest.raises(SamplingError, match="NaN"):
        hybrid_sample(
            lambda x, sigma: x * (math.nan if sigma == at else 1), torch.ones(1, 2), inference(4), (1, 2), "cps", 0.7
        )


@pytest.mark.parametrize("sigmas", [[1.0], [0.9, 0.0], [1.0, 0.1], [1.0, 0.5, 0.5, 0.0], [[1.0, 0.0]]])
def test_grid_must_fall_from_one_to_zero(sigmas: list) -> None:
    with pytest.raises(SamplingError, match="must fall strictly"):
        hybrid_sample(curved, torch.zeros(1, *SHAPE), np.array(sigmas), (0, 1), "flow_sde", 0.7)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SamplingError, match="Unknown tail 'heun'"):
        hybrid_sample(curved, torch.zeros(1, *SHAPE), inference(4), (0, 1), "flow_sde", 0.7, tail="heun")
    with pytest.raises(SamplingError, match="Unknown transition"):
        hybrid_sample(curved, torch.zeros(1, *SHAPE), inference(4), (0, 1), "sde", 0.7)
