"""Advantages against other implementations' numbers, and by hand."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.advantages import Method, advantages, trained
from trainer.errors import ObjectiveError

FIXTURES = Path(__file__).parent / "fixtures"
SDE = json.loads((FIXTURES.parent.parent / "foundation" / "fixtures" / "sde.json").read_text())
TRACKER = json.loads((FIXTURES / "grpo.json").read_text())["advantages"]
PEERS = SDE["advantages_peer_table"]
NAN, INF = float("nan"), float("inf")


def table(values: list, dims: int = 1) -> Tensor:
    """(G, N) or (G, N, D) numbers as (G, N, D) float64."""
    found = torch.tensor(values, dtype=torch.float64)
    return found[..., None] if dims == 1 else found


def ones(dims: int) -> Tensor:
    return torch.ones(dims, dtype=torch.float64)


def near(found: Tensor, expected: Tensor | list, tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def by_prompt(prompts: list[str], values: list) -> Tensor:
    """Flat per-sample values as (G, N); a group's samples may be spread over the list."""
    flat = torch.tensor(values, dtype=torch.float64)
    names = sorted(set(prompts), key=prompts.index)
    return torch.stack([flat[[prompt == name for prompt in prompts]].flatten() for name in names])


@pytest.mark.parametrize("case", TRACKER, ids=lambda case: case["name"])
@pytest.mark.parametrize(
    ("method", "eps", "clip", "name"),
    [
        ("weighted_sum_global_std", None, None, "tracker_global_std_True"),
        ("weighted_sum_group_std", None, None, "tracker_global_std_False"),
        ("weighted_sum_group_std", 1e-4, None, "tracker_global_std_False"),
        ("weighted_sum_group_std", 1e-6, None, "formula_group_std_population_eps1e-6"),
        ("no_std", None, None, "tracker_without_std"),
        ("weighted_sum_global_std", 1e-4, 5.0, "clipped_5_global"),
    ],
)
def test_weighted_sums_match_the_released_tracker(case: dict, method: Method, eps, clip, name):
    rewards = by_prompt(case["prompts"], case["rewards"])[..., None]
    near(advantages(rewards, ones(1), method, eps=eps, clip=clip), by_prompt(case["prompts"], case[name]))


@pytest.mark.parametrize("case", SDE["advantages_gdpo"], ids=lambda case: f"{case['groups']}x{case['group_size']}")
def test_per_reward_matches_the_reference(case: dict):
    rewards = torch.stack([table(case["rewards"][name]).squeeze(-1) for name in case["names"]], dim=2)
    weights = table(case["weights"]).squeeze(-1)
    near(advantages(rewards, weights, "per_reward"), case["gdpo_batch_whitened"], 1e-8)
    near(advantages(rewards, weights, "per_reward", floor=0), case["gdpo_batch_whitened"], 1e-8)
    near(advantages(rewards, weights, "weighted_sum_group_std"), case["sum_then_group_norm_population_eps_1e-4"], 1e-8)
    # One reward alone, where it varies in every group, is whitened already.
    for name, dimension in zip(case["names"], range(len(case["names"])), strict=True):
        alone, golden = rewards[..., dimension : dimension + 1], case["per_reward_population_std_floor_1e-6"][name]
        if (alone.std(1) > 0).all():
            near(advantages(alone, ones(1), "per_reward"), golden, 1e-8)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("weighted_sum_global_std", "flow_grpo_global_std_True"),
        ("weighted_sum_group_std", "flow_grpo_global_std_False"),
        ("per_reward", "flow_factory_gdpo (formula)"),
        ("no_std", "dr_grpo_no_std (formula; prismaudio stat_tracking_wostd)"),
    ],
)
def test_methods_match_their_authors_on_one_table(method: Method, name: str):
    rewards = torch.stack([by_prompt(PEERS["prompts"], PEERS["rewards"][n]) for n in PEERS["rewards"]], dim=2)
    weights = torch.tensor([PEERS["weights"][n] for n in PEERS["rewards"]])
    near(advantages(rewards, weights, method), by_prompt(PEERS["prompts"], PEERS[name]), 1e-6)


# Twice the reward: means 4 and 10, deviations 2 and 4; over all four sqrt(4 + 36 + 36 + 196) / 4 - 49) = sqrt(19).
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("weighted_sum_group_std", [[-1, 1], [-1, 1]]),
        ("weighted_sum_global_std", [[-2 / 19**0.5, 2 / 19**0.5], [-4 / 19**0.5, 4 / 19**0.5]]),
        ("no_std", [[-2, 2], [-4, 4]]),
        ("per_reward", [[-1, 1], [-1, 1]]),
    ],
)
def test_by_hand(method: Method, expected: list):
    near(advantages(table([[1.0, 3.0], [3.0, 7.0]]), torch.tensor([2.0]), method, eps=0.0), expected)


def test_per_reward_adds_what_is_normalised_by_hand():
    # Rewards of deviations 1 and 10 count alike: z = (-1, 1, -1, 1) and (1, 1, -1, -1); 2 z1 + z2 over its sqrt(5).
    rewards = table([[[0.0, 30.0], [2.0, 30.0], [0.0, 10.0], [2.0, 10.0]]], dims=2)
    near(
        advantages(rewards, torch.tensor([2.0, 1.0]), "per_reward"),
        [[-1 / 5**0.5, 3 / 5**0.5, -3 / 5**0.5, 1 / 5**0.5]],
    )


def test_a_reward_below_its_floor_stays_small():
    noise, signal = [0.5, 0.5 + 1e-6, 0.5, 0.5 - 1e-6], [0.1, 0.2, 0.3, 0.4]
    both = table([list(zip(noise, signal, strict=True))], dims=2)
    alone = advantages(table([signal]), ones(1), "per_reward", floor=1e-3)
    near(advantages(both, ones(2), "per_reward", floor=1e-3), alone, 5e-3)
    assert (advantages(both, ones(2), "per_reward", floor=0) - alone).abs().max() > 0.3


def test_a_missing_score_leaves_every_statistic():
    rewards, mask = table([[1.0, 3.0, NAN], [3.0, 7.0, 5.0]]), torch.tensor([[True, True, False], [True] * 3])
    near(advantages(rewards, ones(1), "weighted_sum_group_std", mask, eps=0)[0], [-1, 1, 0])
    near(advantages(rewards, ones(1), "no_std", mask)[0], [-1, 1, 0])
    spread = torch.tensor([1.0, 3.0, 3.0, 7.0, 5.0]).double().std(correction=0)
    near(advantages(rewards, ones(1), "weighted_sum_global_std", mask, eps=0)[0], torch.tensor([-1, 1, 0]) / spread)


def test_a_sum_leaves_out_a_sample_with_a_gap_but_not_a_group_without_the_dimension():
    rewards = table([[[1.0, NAN], [3.0, 2.0], [5.0, 4.0]], [[0.0, NAN], [4.0, NAN], [2.0, NAN]]], dims=2)
    mask = ~rewards.isnan()
    near(advantages(rewards, ones(2), "no_std", mask), [[0, -2, 2], [-2, 2, 0]])
    assert trained(mask, "no_std").tolist() == [[False, True, True], [True, True, True]]
    # Over all samples only those count that have every score: 5 and 9.
    near(advantages(rewards, ones(2), "weighted_sum_global_std", mask, eps=0), [[0, -1, 1], [-1, 1, 0]])


def test_per_reward_uses_what_is_there():
    rewards = table([[[1.0, NAN], [3.0, 2.0], [5.0, 4.0]]], dims=2)
    mask = ~rewards.isnan()
    total = torch.tensor([-1.0, 0, 1]).double() * 1.5**0.5 + torch.tensor([0.0, -1, 1]).double()
    near(advantages(rewards, ones(2), "per_reward", mask), (total / total.std(correction=0))[None])
    assert trained(mask, "per_reward").all()
    gone = advantages(rewards, ones(2), "per_reward", mask & torch.tensor([[[False], [True], [True]]]))
    assert gone[0, 0] == 0
    near(gone, [[0, -1, 1]])


@pytest.mark.parametrize("method", ["weighted_sum_group_std", "weighted_sum_global_std", "no_std", "per_reward"])
def test_nothing_to_learn_from(method: Method):
    assert not advantages(torch.full((2, 3, 1), 0.7), ones(1), method, eps=0).any()
    nobody = torch.zeros(2, 3, dtype=torch.bool)
    assert not advantages(torch.full((2, 3, 1), NAN), ones(1), method, nobody).any()
    assert not trained(nobody[..., None], method).any()
    assert advantages(torch.zeros(0, 3, 1), ones(1), method).shape == (0, 3)


@pytest.mark.parametrize("method", ["weighted_sum_group_std", "weighted_sum_global_std", "no_std", "per_reward"])
@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_a_score_that_is_no_number_is_refused_unless_masked(method: Method, broken: float):
    rewards = torch.arange(12.0).reshape(2, 3, 2)
    rewards[1, 2, 0] = broken
    with pytest.raises(ObjectiveError, match=r"\[\[1, 2, 0\]\] are NaN or infinite"):
        advantages(rewards, ones(2), method)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    with pytest.raises(ObjectiveError, match="left out by the mask"):
        advantages(rewards, ones(2), method, mask)
    mask[1, 2, 0] = False
    assert advantages(rewards, ones(2), method, mask).isfinite().all()
    assert advantages(rewards, ones(2), method, mask.all(2)).isfinite().all()


def test_what_does_not_fit_is_refused():
    rewards = torch.zeros(2, 3, 4)
    with pytest.raises(ObjectiveError, match=r"got \(2, 3, 4\) and \(3,\)"):
        advantages(rewards, ones(3), "no_std")
    with pytest.raises(ObjectiveError, match=r"got \(2, 3\)"):
        advantages(rewards[..., 0], ones(3), "no_std")
    with pytest.raises(ObjectiveError, match=r"got \(3, 2, 1\)"):
        advantages(rewards, ones(4), "no_std", torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ObjectiveError, match="Unknown advantage method 'gdpo'"):
        advantages(rewards, ones(4), "gdpo")  # pyright: ignore[reportArgumentType]
