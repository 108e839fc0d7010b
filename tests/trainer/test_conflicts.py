"""Conflicts between rewards: how they are measured, and weights that trade none away."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from trainer.advantages import correlations, project, standardised
from trainer.config import AlgorithmConfig
from trainer.errors import ObjectiveError
from trainer.table import RewardTable

NAN = float("nan")
seeds = st.integers(0, 10**6)
some = settings(max_examples=40, deadline=None)


def near(found: Tensor, expected: Tensor | list, tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0, equal_nan=True)


def mixed(seed: int, groups: int, members: int, dims: int) -> Tensor:
    """Rewards (G, N, D) with correlations of their own, of other spread and level in every group."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    shape = groups, 1, dims
    return normal(groups, members, dims) @ normal(dims, dims) * normal(*shape).exp() + 10 * normal(*shape)


def random_correlation(seed: int, dims: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.corrcoef(torch.randn(dims, dims + 1, dtype=torch.float64, generator=generator)).reshape(dims, dims)


def test_correlations_of_what_rises_and_falls_together():
    rise = torch.tensor([[0.0, 1.0, 2.0], [5.0, 3.0, 4.0]])
    even = torch.tensor([[1.0, -2.0, 1.0], [0.0, 0.0, 0.0]])
    found = correlations(torch.stack([rise, 3 * rise - 1, -0.1 * rise, even], dim=2))
    near(found, [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]], 1e-6)


def test_what_does_not_vary_has_no_correlation():
    found = correlations(torch.tensor([[[1.0, 0.3], [2.0, 0.3]]]))
    near(found, [[1, NAN], [NAN, NAN]])
    assert project(torch.tensor([1.0, 2.0]), found).tolist() == [1, 2]


def test_one_group_has_the_usual_correlation():
    rewards = mixed(0, 1, 9, 3)
    near(correlations(rewards), torch.corrcoef(rewards[0].T))


@given(seed=seeds)
@some
def test_the_level_of_a_group_is_of_no_account(seed):
    rewards = mixed(seed, 4, 5, 3)
    generator = torch.Generator().manual_seed(seed + 1)
    offset = torch.randn(4, 1, 3, dtype=torch.float64, generator=generator)
    near(correlations(rewards + 5 * offset), correlations(rewards), 1e-8)
    # Rewards that only rise together from group to group do not correlate within groups.
    levels = torch.arange(4.0)[:, None, None].expand(4, 5, 3)
    near(correlations(rewards + 1000 * levels), correlations(rewards), 1e-6)


@given(seed=seeds)
@some
def test_a_missing_score_leaves_its_pairs_alone(seed):
    rewards = mixed(seed, 1, 8, 3)
    mask = torch.ones(1, 8, 3, dtype=torch.bool)
    mask[0, :3, 0] = False
    holes = torch.where(mask, rewards, NAN)
    found = correlations(holes, mask)
    assert found.isfinite().all()
    assert (found.abs() <= 1 + 1e-9).all()
    near(found, found.T)
    near(found[1:, 1:], torch.corrcoef(rewards[0, :, 1:].T))
    # Deviations are from the mean of the scores that are there.
    a = rewards[0, 3:, 0] - rewards[0, 3:, 0].mean()
    b = (rewards[0, :, 1] - rewards[0, :, 1].mean())[3:]
    near(found[0, 1], (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    with pytest.raises(ObjectiveError, match="NaN"):
        correlations(holes)


@given(seed=seeds, floor=st.sampled_from([0.0, 0.5]))
@some
def test_standardised_scores_by_definition(seed, floor):
    rewards = mixed(seed, 3, 5, 2)
    found = standardised(rewards, floor=floor)
    for g in range(3):
        for d in range(2):
            column = rewards[g, :, d]
            spread = column.std(correction=0).item()
            near(found[g, :, d], (column - column.mean()) / max(spread, floor), 1e-8)


def test_a_projection_by_hand():
    # The second reward's rate is -.8 + .5 = -.3; u moves along its row (-.8, 1) by .3 / 1.64.
    correlation = torch.tensor([[1.0, -0.8], [-0.8, 1.0]], dtype=torch.float64)
    found = project(torch.tensor([1.0, 0.5]), correlation)
    near(found, [1 - 0.8 * 0.3 / 1.64, 0.5 + 0.3 / 1.64])
    near(correlation @ found, [0.6 + 0.3 * (-1.6) / 1.64, 0])


@given(seed=seeds, dims=st.integers(1, 5), weights=st.lists(st.floats(0.05, 2), min_size=5, max_size=5))
@some
def test_projected_weights_trade_no_reward_away_and_move_least(seed, dims, weights):
    correlation, w = random_correlation(seed, dims), torch.tensor(weights[:dims], dtype=torch.float64)
    u = project(w, correlation)
    rates = correlation @ u
    assert (rates >= -1e-8).all()
    if (correlation @ w >= 0).all():
        assert torch.equal(u, w)
        return
    c = correlation.numpy()
    best = minimize(
        lambda x: ((x - w.numpy()) ** 2).sum(),
        w.numpy(),
        jac=lambda x: 2 * (x - w.numpy()),
        constraints={"type": "ineq", "fun": lambda x: c @ x, "jac": lambda x: c},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert ((u - w) ** 2).sum().item() <= best.fun + 1e-6
    # The projection onto a cone is orthogonal to what it took away.
    assert (u * (u - w)).sum().item() == pytest.approx(0, abs=1e-8)


def test_unknown_correlations_count_as_none():
    correlation = torch.tensor([[1.0, NAN, -0.9], [NAN, NAN, NAN], [-0.9, NAN, 1.0]], dtype=torch.float64)
    found = project(torch.tensor([1.0, 0.3, 0.5]), correlation)
    assert found[1].item() == pytest.approx(0.3)
    pair = project(torch.tensor([1.0, 0.5]), torch.tensor([[1.0, -0.9], [-0.9, 1.0]], dtype=torch.float64))
    near(found[[0, 2]], pair)
    assert correlation.isnan().sum() == 5


@given(seed=seeds)
@some
def test_a_policy_tilted_by_projected_weights_lowers_no_reward(seed):
    """Samples reweighted by exp(step * A) stand for the policy after a small step along A."""
    correlation = random_correlation(seed, 3)
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(2000, 3, dtype=torch.float64, generator=generator)
    drawn = torch.cat([half, -half])
    white = drawn @ torch.linalg.inv(torch.linalg.cholesky(drawn.T @ drawn / len(drawn))).T
    rewards = white @ torch.linalg.cholesky(correlation + 1e-9 * torch.eye(3)).T

    def gain(weights: Tensor) -> Tensor:
        tilt = torch.softmax(1e-3 * (rewards @ weights), 0)
        return (tilt @ rewards) / 1e-3

    even = torch.ones(3, dtype=torch.float64)
    assert (gain(project(even, correlation)) >= -1e-4).all()
    near(gain(even), correlation @ even, 1e-3)


NAMES = ("a", "b", "c")


def rewards_of(table: Tensor, mask: Tensor | None = None) -> list[dict[str, np.ndarray]]:
    holes = table if mask is None else torch.where(mask, table, NAN)
    return [{name: group[:, d].numpy() for d, name in enumerate(NAMES)} for group in holes]


@given(
    seed=seeds,
    weights=st.lists(st.floats(0.1, 2), min_size=3, max_size=3),
    floor=st.sampled_from([0.0, 0.5]),
    missing=st.booleans(),
)
@some
def test_advantages_of_a_recipe_with_projection_lower_no_reward(seed, weights, floor, missing):
    """Groups of unlike spread, rewards below their floor and missing scores included."""
    table = mixed(seed, 5, 6, 3)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(5, 6, 3, generator=generator) > (0.2 if missing else -1)
    config = AlgorithmConfig(conflict="project", reward_floor=floor, adv_clip=1e6, group_size=6)
    rewards = RewardTable.of(rewards_of(table, mask), dict(zip(NAMES, weights, strict=True)))
    z = standardised(rewards.rewards, rewards.mask, floor=floor)
    found = rewards.advantages(config).values
    assert ((z * found[..., None]).sum((0, 1)) >= -1e-6).all()
    used = rewards.describe(config)["weights"]
    before = rewards.advantages(config.model_copy(update={"conflict": "none"})).values
    if ((z * before[..., None]).sum((0, 1)) >= 1e-6).all():
        assert list(used.values()) == pytest.approx(weights)
        near(found, before, 1e-8)


def test_without_projection_a_reward_can_be_traded_away():
    """Otherwise the test above would show nothing."""
    x = torch.tensor([[-1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    table = torch.stack([x, 0.9 * x + 0.1 * y, y - 4 * x], dim=2)
    rewards = RewardTable.of(rewards_of(table), dict.fromkeys(NAMES, 1.0))
    z = standardised(table)
    plain = AlgorithmConfig(group_size=4)
    lost = (z * rewards.advantages(plain).values[..., None]).mean((0, 1))
    assert lost.min() < -0.5
    kept = plain.model_copy(update={"conflict": "project"})
    assert (z * rewards.advantages(kept).values[..., None]).mean((0, 1)).min() > -1e-9
