"""The losses and distances, number by number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foundation.transitions import Transition, kl
from tests.trainer.builders import algorithm
from trainer.errors import ObjectiveError
from trainer.fast_grpo import normalised_log_ratio, policy_loss, trust_region_loss, velocity_kl
from trainer.replay import Step
from trainer.update import reference_distance, surrogate

# Every combination of a ratio below, at and above 1 with a gain and a loss.
RATIOS = torch.tensor([1.5, 0.5, 1.0, 1.5, 0.5, 1.0])
SIGNS = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])


def slopes(loss: Tensor, log_prob: Tensor) -> list[float]:
    return torch.autograd.grad(loss.sum(), log_prob)[0].tolist()


def test_ratio_clip_by_hand():
    log_prob = RATIOS.log().requires_grad_()
    loss = policy_loss(log_prob, torch.zeros(6), 2 * SIGNS, 0.2, reduce="none")
    # Gains are capped at the clip, losses are not: -2 min(r, 1.2) and 2 max(r, 0.8).
    torch.testing.assert_close(loss, torch.tensor([-2.4, -1.0, -2.0, 3.0, 1.6, 2.0]))
    # What the clip caps has no gradient; the rest has -A r.
    assert slopes(loss, log_prob) == pytest.approx([0, -1, -2, 3, 0, 2])
    assert policy_loss(log_prob, torch.zeros(6), 2 * SIGNS, 0.2).item() == pytest.approx(loss.mean().item())


def test_trust_region_by_hand():
    log_prob = RATIOS.log().requires_grad_()
    far, near = torch.full((6,), 0.1), torch.full((6,), 0.0999)
    loss = trust_region_loss(log_prob, torch.zeros(6), 2 * SIGNS, far, 0.1, reduce="none")
    # At the limit, masked are only a gain that is already likelier and a loss that is already unlikelier.
    torch.testing.assert_close(loss, torch.tensor([0, -1.0, -2.0, 3.0, 0, 2.0]))
    assert slopes(loss, log_prob) == pytest.approx([0, -1, -2, 3, 0, 2])
    inside = trust_region_loss(log_prob, torch.zeros(6), 2 * SIGNS, near, 0.1, reduce="none")
    torch.testing.assert_close(inside, -2 * SIGNS * RATIOS)
    assert slopes(inside, log_prob) == pytest.approx((-2 * SIGNS * RATIOS).tolist())
    mixed = trust_region_loss(log_prob, torch.zeros(6), 2 * SIGNS, torch.where(RATIOS > 1, far, near), 0.1)
    assert mixed.item() == pytest.approx((0 - 1 - 2 + 3 + 1 + 2) / 6)


def test_the_trust_region_has_no_gradient_of_its_own():
    divergence = torch.tensor([0.05, 0.2]).requires_grad_()
    log_prob = torch.zeros(2).requires_grad_()
    trust_region_loss(log_prob, torch.zeros(2), torch.ones(2), divergence, 0.1).backward()
    assert divergence.grad is None
    assert log_prob.grad is not None


tenths = st.integers(-30, 30).map(lambda n: n / 10)


@given(log_ratio=tenths, advantage=tenths, divergence=st.floats(0, 1), limit=st.floats(0.01, 0.99))
def test_a_trust_region_masks_exactly_what_is_outside_and_moves_away(log_ratio, advantage, divergence, limit):
    new, old, gain, distance = (torch.tensor([x], dtype=torch.float64) for x in (log_ratio, 0.0, advantage, divergence))
    loss = trust_region_loss(new, old, gain, distance, limit, reduce="none").item()
    away = (log_ratio > 0 and advantage > 0) or (log_ratio < 0 and advantage < 0)
    assert loss == pytest.approx(0 if away and divergence >= limit else -advantage * math.exp(log_ratio))


@given(seed=st.integers(0, 10**6), std=st.floats(0.01, 2), scale=st.floats(0, 3))
def test_ratio_norm_is_the_mean_of_the_noise_times_the_shift(seed, std, scale):
    generator = torch.Generator().manual_seed(seed)
    mean, noise, shift = (torch.randn(3, 4, 5, dtype=torch.float64, generator=generator) for _ in range(3))
    old, new = Transition(mean, std), Transition(mean + scale * std * shift, std)
    x = old.draw(noise)
    found = normalised_log_ratio(new.log_prob(x), old.log_prob(x), kl(new, old), std)
    torch.testing.assert_close(found, (noise * (new.mean - old.mean)).flatten(1).mean(1), atol=1e-9, rtol=1e-9)


def test_velocity_distance_by_hand():
    velocity = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]], requires_grad=True)
    found = velocity_kl(velocity, torch.tensor([[[0.0, 1.0]], [[3.0, 4.0]]]))
    assert found.tolist() == [2.5, 12.5]
    found.sum().backward()
    assert velocity.grad is not None
    assert velocity.grad.tolist() == [[[1, 2]], [[-3, -4]]]


def step(mean: float, velocity: float, log_prob: float = 0.0) -> Step:
    """One member of one element, with std 0.5 and a step of 0.1."""
    box = torch.full((1, 1, 1), 1.0)
    return Step(Transition(mean * box, 0.5), velocity * box, torch.full((1, 1), log_prob), 0.1)


@pytest.mark.parametrize(("space", "expected"), [("v", 4.0), ("x", 18.0), ("x_no_dt", 1.8)])
def test_reference_distances_by_hand(space, expected):
    # Velocities 2 apart; means 3 apart: 9 / (2 * .25) = 18 in units of the variance, a tenth in those of the diffusion.
    found = reference_distance(algorithm(kl_space=space), step(3.0, 2.0), step(0.0, 0.0))
    assert found.tolist() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("region", "loss", "limited"),
    [
        # r = e^.2 = 1.2214 with A = 2, clipped at 1.1.
        ({"trust_region": "ratio", "clip_range": 0.1}, -2.2, True),
        ({"trust_region": "ratio", "clip_range": 0.3}, -2 * math.exp(0.2), False),
        # The divergence is 0.3.
        ({"trust_region": "kl", "kl_limit": 0.3}, 0.0, True),
        ({"trust_region": "kl", "kl_limit": 0.31}, -2 * math.exp(0.2), False),
        # (.2 + .3) * std .5 = .25, and the loss is divided by the step of .1.
        ({"trust_region": "ratio_norm", "clip_range": 0.3}, -20 * math.exp(0.25), False),
        ({"trust_region": "ratio_norm", "clip_range": 0.2}, -24.0, True),
    ],
)
def test_trust_regions_of_a_recipe_by_hand(region, loss, limited):
    old, advantage, divergence = (torch.tensor([[value]]) for value in (0.1, 2.0, 0.3))
    found, active = surrogate(algorithm(**region), step(0.0, 0.0, 0.3), old, advantage, divergence)
    assert found.item() == pytest.approx(loss, rel=1e-5)
    assert active.tolist() == [[limited]]


def test_shapes_that_differ_are_refused():
    one, two = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(ObjectiveError, match=r"log_prob \(2, 3\), old_log_prob \(2, 3\), advantages \(3,\)"):
        policy_loss(one, one, two, 0.1)
    with pytest.raises(ObjectiveError, match=r"divergence \(3,\)"):
        trust_region_loss(one, one, one, two, 0.1)
