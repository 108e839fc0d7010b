"""The hybrid sampler against golden rollouts, the naive way, and an exact count of evaluations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foundation.errors import SamplingError
from foundation.grids import inference, official_rl, respace
from foundation.sampler import HybridSampler, group_noise, member_noise
from foundation.tails import TAILS
from foundation.transitions import TRANSITIONS, log_density
from tests.foundation.conftest import read_json, read_tensors, stack_items

SHAPE = (3, 5)


def curved(x: Tensor, sigma: float, copies: int) -> Tensor:
    """A velocity that acts on each element alone, so batching cannot change a bit."""
    return torch.sin(3 * x) * (1 + sigma) - 0.5 * x


class Counting:
    def __init__(self) -> None:
        self.samples = 0
        self.calls: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, sigma: float, copies: int) -> Tensor:
        self.samples += x.shape[0]
        self.calls.append((x.shape[0], copies))
        return curved(x, sigma, copies)


def naive(sampler: HybridSampler, noise: Tensor, start: int, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One sample of one prompt, nothing shared: window states, log-densities and the end."""
    s, x = sampler.sigmas, noise[None]
    states, densities = [], []
    for i in range(start):
        x = x + (s[i + 1] - s[i]) * curved(x, s[i], 1)
    states.append(x[0])
    for k, draw in enumerate(draws):
        sigma, sigma_next = float(s[start + k]), float(s[start + k + 1])
        step = TRANSITIONS[sampler.transition]
        transition = step(x, curved(x, sigma, 1), sigma, sigma_next, sampler.noise_level, float(s[1]))
        x = transition.draw(draw[None])
        states.append(x[0])
        densities.append(log_density(x, transition)[0])
    rest = respace(s[start + len(draws) :], sampler.tail_steps)
    x = TAILS[sampler.tail](lambda x, sigma: curved(x, sigma, 1), x, rest)
    return torch.stack(states), torch.stack(densities), x[0]


@given(
    prompts=st.integers(1, 3),
    members=st.integers(1, 4),
    steps=st.integers(3, 9),
    size=st.integers(1, 3),
    at=st.floats(0, 1),
    tail=st.sampled_from(sorted(TAILS)),
    tail_steps=st.sampled_from([None, 1, 2, 4]),
    transition=st.sampled_from(["flow_sde", "cps", "exponential"]),
)
@settings(max_examples=40, deadline=None)
def test_sharing_changes_nothing_but_the_count(
    prompts: int, members: int, steps: int, size: int, at: float, tail: str, tail_steps: int | None, transition: str
) -> None:
    size = min(size, steps - 1)
    start = round(at * (steps - 1 - size))
    sampler = HybridSampler(inference(steps), transition, 0.7, tail, tail_steps)
    noise = torch.stack([group_noise(0, 0, p, SHAPE) for p in range(prompts)])
    draws = torch.stack([member_noise(0, 0, p, size, members, SHAPE) for p in range(prompts)], dim=1)
    counting = Counting()
    rollout = sampler.rollout(counting, noise, members, start, size, draws)

    assert rollout.latents.shape == (size + 1, prompts, members, *SHAPE)
    for p in range(prompts):
        for n in range(members):
            states, densities, final = naive(sampler, noise[p], start, draws[:, p, n])
            assert torch.equal(rollout.latents[:, p, n], states)
            assert torch.equal(rollout.log_probs[:, p, n], densities)
            assert torch.equal(rollout.final[p, n], final)

    left = steps - start - size
    tail_calls = left if tail_steps is None else min(left, tail_steps)
    expected = start + 1 + (size - 1) * members + tail_calls * members
    assert rollout.nfe == prompts * expected == counting.samples
    assert rollout.nfe_per_group == expected
    assert all(batch == prompts * copies for batch, copies in counting.calls)


def test_count_of_the_fast_preset() -> None:
    # T = 16, w = 1, start 3, tail of 4: 3 + 1 per group, then 4 steps of 8 members.
    sampler = HybridSampler(inference(16), tail="ab2", tail_steps=4)
    noise = torch.zeros(12, *SHAPE)
    rollout = sampler.rollout(curved, noise, 8, 3, 1, torch.zeros(1, 12, 8, *SHAPE))
    assert (rollout.nfe_per_group, rollout.nfe) == (36, 432)
    guided = HybridSampler(inference(16), tail="ab2", tail_steps=4, evaluations=2)
    assert guided.rollout(curved, noise, 8, 3, 1, torch.zeros(1, 12, 8, *SHAPE)).nfe == 864


@pytest.mark.parametrize("name", ["c1", "c4", "c5", "c6"])
@torch.no_grad()
def test_golden_rollouts(golden_model, name: str) -> None:
    meta, tensors, model = read_json("sampler_meta.json"), read_tensors("sampler.safetensors"), golden_model("a")
    case = meta["cases"][name]
    members, length = case["branches"], tensors[f"{name}.initial_noise"].shape[-1]
    conditions = model.condition(stack_items(tensors, case["items"]), length)
    prepared = model.prepare(conditions, length, meta["cfg_scale"])
    sampler = HybridSampler(official_rl(case["T"]), "flow_sde", meta["noise_level"], "euler", evaluations=2)
    np.testing.assert_allclose(sampler.sigmas, case["sigmas"], atol=1e-7)

    def item_fastest(x: Tensor) -> Tensor:
        """(..., P, N, C, L) to the original's branch order."""
        return x.transpose(-4, -3).flatten(-4, -3)

    draws = tensors[f"{name}.window_noise"].unflatten(1, (members, len(case["items"]))).transpose(1, 2)
    rollout = sampler.rollout(
        lambda x, sigma, copies: model.velocity(x, sigma, prepared.repeat_interleave(copies)),
        tensors[f"{name}.initial_noise"],
        members,
        case["start"],
        case["w"],
        draws,
    )
    torch.testing.assert_close(item_fastest(rollout.latents), tensors[f"{name}.window_latents"], atol=1e-4, rtol=0)
    torch.testing.assert_close(item_fastest(rollout.final), tensors[f"{name}.final_latents"], atol=1e-4, rtol=0)
    log_probs = rollout.log_probs.transpose(1, 2).flatten(1)
    torch.testing.assert_close(log_probs, tensors[f"{name}.log_probs"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_golden_inference(golden_model) -> None:
    meta, tensors, model = read_json("sampler_meta.json"), read_tensors("sampler.safetensors"), golden_model("a")
    trajectory = tensors["ode1.trajectory"]
    conditions = model.condition(stack_items(tensors, meta["ode"]["items"]), trajectory.shape[-1])
    prepared = model.prepare(conditions, trajectory.shape[-1], meta["cfg_scale"])
    sampler = HybridSampler(inference(meta["ode"]["T"]))
    x = sampler.ode(lambda x, sigma, copies: model.velocity(x, sigma, prepared), trajectory[0])
    torch.testing.assert_close(x, trajectory[-1], atol=1e-4, rtol=0)


def test_ode_on_other_steps_is_plain_euler() -> None:
    x = HybridSampler(official_rl(8)).ode(lambda x, sigma, copies: x, torch.ones(2, *SHAPE), steps=4)
    assert x[0, 0, 0].item() == pytest.approx(0.75**4)


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


@pytest.mark.parametrize(("start", "size"), [(-1, 1), (0, 0), (4, 1), (3, 2)])
def test_window_outside_the_grid(start: int, size: int) -> None:
    sampler = HybridSampler(inference(4))
    with pytest.raises(SamplingError, match="does not lie within the 4 steps"):
        sampler.rollout(curved, torch.zeros(1, *SHAPE), 2, start, size, torch.zeros(max(size, 0), 1, 2, *SHAPE))


def test_draws_of_another_shape() -> None:
    with pytest.raises(SamplingError, match=r"\(1, 2, 4, 3, 5\)"):
        HybridSampler(inference(4)).rollout(curved, torch.zeros(2, *SHAPE), 4, 0, 1, torch.zeros(1, 4, 2, *SHAPE))


def test_certain_last_step_has_no_density() -> None:
    sampler = HybridSampler(inference(4), "cps", 0.8)
    with pytest.raises(SamplingError, match="no density"):
        sampler.rollout(curved, torch.zeros(1, *SHAPE), 2, 3, 1, torch.zeros(1, 1, 2, *SHAPE))


def test_broken_velocity_is_an_error() -> None:
    sampler = HybridSampler(inference(4))
    with pytest.raises(SamplingError, match="NaN"):
        sampler.rollout(lambda x, s, c: x * math.nan, torch.zeros(1, *SHAPE), 2, 0, 1, torch.zeros(1, 1, 2, *SHAPE))


@pytest.mark.parametrize("sigmas", [[1.0], [0.9, 0.0], [1.0, 0.1], [1.0, 0.5, 0.5, 0.0]])
def test_grid_must_fall_from_one_to_zero(sigmas: list[float]) -> None:
    with pytest.raises(SamplingError, match="must fall strictly"):
        HybridSampler(np.array(sigmas))
