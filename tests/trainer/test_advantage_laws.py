"""Laws of the advantages, for any table of rewards."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from trainer.advantages import Method, advantages, trained

METHODS: tuple[Method, ...] = ("weighted_sum_group_std", "weighted_sum_global_std", "no_std", "per_reward")
NORMALISED: tuple[Method, ...] = ("weighted_sum_group_std", "weighted_sum_global_std", "per_reward")
G, N, D = 3, 5, 2
# Multiples of 1/64 add up without rounding, so what should be equal scores are.
VALUES = st.integers(-64, 64).map(lambda n: n / 64)
TABLES = arrays(np.float64, (G, N, D), elements=VALUES).map(torch.from_numpy)
FULL = torch.ones(G, N, D, dtype=torch.bool)
MASKS = st.just(FULL) | arrays(np.bool_, (G, N, D)).map(torch.from_numpy)
WEIGHTS = arrays(np.float64, (D,), elements=st.sampled_from([0.5, 1.0, 2.0])).map(torch.from_numpy)
each = pytest.mark.parametrize("method", METHODS)
some = settings(max_examples=40, deadline=None)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)


def exact(method: Method, rewards: Any, weights: Any, mask: Tensor | None = None, clip: float | None = None) -> Tensor:
    """Without anything added to a deviation."""
    return advantages(rewards, weights, method, mask, eps=0.0, floor=0.0, clip=clip)


@each
@given(rewards=TABLES, mask=MASKS, weights=WEIGHTS)
@some
def test_members_without_a_score_get_nothing_and_change_nothing(method, rewards, mask, weights):
    found = exact(method, rewards, weights, mask=mask, clip=5.0)
    usable = trained(mask, method)
    assert found.shape == (G, N)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert (found.abs() <= 5).all()
    assert not found[~usable].any()
    assert usable[mask.all(2)].all()
    assert not usable[~mask.any(2)].any()
    holes = torch.where(mask, rewards, torch.nan)
    assert torch.equal(exact(method, holes, weights, mask=mask, clip=5.0), found)


@each
@given(rewards=TABLES, mask=MASKS, weights=WEIGHTS)
@some
def test_a_group_has_no_advantage_over_itself(method, rewards, mask, weights):
    sums = exact(method, rewards, weights, mask=mask).sum(1)
    near(sums, torch.zeros(G, dtype=torch.float64))


@each
@given(rewards=TABLES, weights=WEIGHTS, shift=arrays(np.float64, (G, 1, D), elements=VALUES), mask=MASKS)
@some
def test_shifts_change_nothing(method, rewards, weights, shift, mask):
    """By any amount per group and reward; a global deviation sees how far apart groups are, so one per reward."""
    offset = torch.from_numpy(shift)
    if method == "weighted_sum_global_std":
        offset = offset[:1]
    moved = exact(method, rewards + offset, weights, mask=mask)
    near(moved, exact(method, rewards, weights, mask=mask))


@pytest.mark.parametrize("method", NORMALISED)
@given(rewards=TABLES, weights=WEIGHTS, mask=MASKS, scale=st.sampled_from([2.0**-6, 0.5, 3.0, 100.0]))
@some
def test_the_unit_of_the_rewards_does_not_matter(method, rewards, weights, mask, scale):
    near(exact(method, scale * rewards, weights, mask=mask), exact(method, rewards, weights, mask=mask))


@given(rewards=TABLES, weights=WEIGHTS, mask=MASKS, scales=st.lists(st.sampled_from([0.25, 1.0, 8.0]), min_size=G * D))
@some
def test_per_reward_has_a_unit_of_its_own_for_each_reward_and_group(rewards, weights, mask, scales):
    units = torch.tensor(scales[: G * D], dtype=torch.float64).reshape(G, 1, D)
    near(exact("per_reward", units * rewards, weights, mask=mask), exact("per_reward", rewards, weights, mask=mask))


@given(rewards=TABLES, weights=WEIGHTS, mask=MASKS, scale=st.sampled_from([0.5, 3.0]))
@some
def test_without_a_deviation_the_unit_stays(rewards, weights, mask, scale):
    near(exact("no_std", scale * rewards, weights, mask=mask), scale * exact("no_std", rewards, weights, mask=mask))


@each
@given(rewards=TABLES, weights=WEIGHTS, flat=st.integers(0, G - 1))
@some
def test_a_flat_group_has_no_advantage(method, rewards, weights, flat):
    rewards = rewards.clone()
    rewards[flat] = rewards[flat, :1]
    found = advantages(rewards, weights, method)
    near(found[flat], torch.zeros(N, dtype=torch.float64))


@each
@given(rewards=TABLES, weights=WEIGHTS, mask=MASKS, order=st.permutations(range(N)), groups=st.permutations(range(G)))
@some
def test_order_is_of_no_account(method, rewards, weights, mask, order, groups):
    found = exact(method, rewards, weights, mask=mask)
    near(exact(method, rewards[:, order], weights, mask=mask[:, order]), found[:, order])
    near(exact(method, rewards[groups], weights, mask=mask[groups]), found[groups])
    swapped = exact(method, rewards.flip(2), weights.flip(0), mask=mask.flip(2))
    near(swapped, found)


@each
@given(rewards=TABLES, weights=WEIGHTS, mask=arrays(np.bool_, (G, N)).map(torch.from_numpy))
@some
def test_a_mask_of_members_is_one_of_all_their_scores(method, rewards, weights, mask):
    of_scores = mask[..., None].expand(G, N, D)
    assert torch.equal(exact(method, rewards, weights, mask=mask), exact(method, rewards, weights, mask=of_scores))
    assert torch.equal(exact(method, rewards, weights, mask=FULL), exact(method, rewards, weights))


@each
@given(rewards=TABLES, weights=WEIGHTS)
@some
def test_single_precision_and_lists_are_taken_as_they_are(method, rewards, weights):
    found = exact(method, rewards, weights)
    assert torch.equal(exact(method, rewards.float(), weights.float()), found)
    assert torch.equal(exact(method, rewards.tolist(), weights.tolist()), found)


@given(rewards=TABLES, weights=WEIGHTS)
@some
def test_per_reward_is_white_over_the_batch(rewards, weights):
    found = exact("per_reward", rewards, weights)
    spread = found.std(correction=0).item()
    assert spread == pytest.approx(1) or not found.any()
