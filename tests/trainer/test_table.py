"""The reward table of an iteration: what is there, how far it spreads, what a recipe makes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.builders import algorithm
from trainer.advantages import is_flat
from trainer.config import AlgorithmConfig
from trainer.errors import ObjectiveError
from trainer.table import RewardTable

NAN = float("nan")


def column(*values: float) -> np.ndarray:
    return np.array(values)


GROUPS = [
    {"a": column(0.0, 1.0, 2.0), "b": column(0.2, 0.2, NAN)},
    {"b": column(0.5, 0.1, 0.3), "a": column(3.0, 3.0, 3.0)},
]
TABLE = RewardTable.of(GROUPS, {"a": 1.0, "b": 10.0})


def test_a_table_holds_what_is_there():
    assert TABLE.names == ("a", "b")
    assert TABLE.weights.tolist() == [1.0, 10.0]
    assert TABLE.rewards.tolist() == [[[0, 0.2], [1, 0.2], [2, 0]], [[3, 0.5], [3, 0.1], [3, 0.3]]]
    assert TABLE.rewards.dtype == torch.float64
    assert TABLE.mask.tolist() == [[[True, True], [True, True], [True, False]], [[True, True]] * 3]
    assert RewardTable.of(GROUPS, {"b": 1.0, "a": 0.0}).names == ("b",)


def test_the_spread_is_that_of_the_weighted_total_in_complete_samples():
    # Totals 2 and 3 in the first group (one lacks a score), 8, 4 and 6 in the second.
    assert TABLE.spread() == pytest.approx((0.5 + (8 / 3) ** 0.5) / 2)
    nobody = [{"a": column(1.0, NAN, NAN)}]
    assert np.isnan(RewardTable.of(nobody, {"a": 1.0}).spread())


def test_what_a_recipe_makes_of_it():
    summed = AlgorithmConfig(preset="paper", group_size=3, std_eps=0.0)
    found = TABLE.advantages(summed)
    torch.testing.assert_close(found.values[0], torch.tensor([-1.0, 1.0, 0.0]).double())
    assert found.mask.tolist() == [[True, True, False], [True, True, True]]
    assert found.samples == 5
    clipped = TABLE.advantages(summed.model_copy(update={"adv_clip": 0.5})).values
    torch.testing.assert_close(clipped[0], torch.tensor([-0.5, 0.5, 0.0]).double())
    each = TABLE.advantages(algorithm(advantage="per_reward"))
    assert each.mask.all()
    assert each.samples == 6


def test_the_description_by_hand():
    described = TABLE.describe(algorithm())
    # In each group only one of the two varies.
    assert described["reward_spread"] == TABLE.spread()
    assert described["weights"] == {"a": 1.0, "b": 10.0}
    assert described["conflict"] == {"a/b": 0}
    opposed = [{"a": column(0.0, 1.0), "b": column(1.0, 0.0)}, {"a": column(0.0, 9.0), "b": column(1.0, 3.0)}]
    both = RewardTable.of(opposed, {"a": 1.0, "b": 1.0}).describe(algorithm())
    # One group against, one in favour; that the second spreads nine times as far does not count.
    assert both["conflict"] == {"a/b": pytest.approx(0, abs=1e-9)}


def test_errors_name_what_is_wrong():
    with pytest.raises(ObjectiveError, match="Group 0 of the batch has no temporal rewards, only semantic"):
        RewardTable.of([{"semantic": np.zeros(8)}], {"semantic": 1.0, "temporal": 1.0})
    with pytest.raises(ObjectiveError, match="weight is 0"):
        RewardTable.of([{"semantic": np.zeros(8)}], {"semantic": 0.0})
    with pytest.raises(ObjectiveError, match=r"one size, got \[4, 8\]"):
        RewardTable.of([{"a": np.zeros(8)}, {"a": np.zeros(4)}], {"a": 1.0})
    with pytest.raises(ObjectiveError, match="infinite"):
        RewardTable.of([{"a": column(0.0, np.inf)}], {"a": 1.0}).advantages(algorithm())


@pytest.mark.parametrize(
    ("rewards", "flat"),
    [
        ({"a": column(0.1, 0.1, 0.1), "b": column(0.5, 0.5, 0.5)}, True),
        ({"a": column(0.1, 0.1, 0.1), "b": column(0.5, 0.6, 0.5)}, False),
        # A sum that is flat because its rewards trade places still teaches something.
        ({"a": column(0.1, 0.2, 0.3), "b": column(0.3, 0.2, 0.1)}, False),
        # Deviations of 0.01 are at the floor, of 0.011 above it.
        ({"a": column(0.49, 0.51), "b": column(0.0, 0.0)}, True),
        ({"a": column(0.489, 0.511), "b": column(0.0, 0.0)}, False),
        ({"a": column(0.1, NAN, NAN), "b": column(NAN, NAN, NAN)}, True),
        ({"a": column(0.1, 0.9, NAN), "b": column(NAN, NAN, NAN)}, False),
        # Weight 0: not asked.
        ({"a": column(0.1, 0.1), "b": column(0.1, 0.1), "c": column(0.0, 1.0)}, True),
    ],
)
def test_a_group_is_flat_when_no_weighted_reward_varies(rewards, flat):
    assert is_flat(rewards, {"a": 1.0, "b": 0.5, "c": 0.0}, 0.01 + 1e-12) is flat


def test_rounding_is_no_spread():
    assert is_flat({"a": np.full(7, 0.1) + column(0, 0, 0, 1e-17, 0, 0, 0)}, {"a": 1.0}, 0.0)
    assert not is_flat({"a": column(0.1, 0.1 + 1e-9)}, {"a": 1.0}, 0.0)


@given(values=st.lists(st.integers(0, 8), min_size=2, max_size=6), weight=st.sampled_from([0.1, 3.0, -1.0]))
def test_flat_groups_are_those_without_advantages(values, weight):
    group = {"a": np.array(values) / 8}
    config = algorithm(reward_floor=0.0)
    taught = RewardTable.of([group], {"a": weight}).advantages(config).values
    assert is_flat(group, {"a": weight}, config.reward_floor) == (not taught.any())
