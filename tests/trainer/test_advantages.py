import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from settings import PrismError
from trainer.advantages import advantages, normalise_then_sum, sum_then_normalise
from trainer.config import AlgorithmConfig

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "advantages.json").read_text())
FAR = 1e9


def by_prompt(case: dict, values: list) -> np.ndarray:
    """Flat per-sample values as (G, N); a group's samples may be spread over the list."""
    names = sorted(set(case["prompts"]), key=case["prompts"].index)
    flat = np.array(values, dtype=np.float64)
    return np.stack([flat[[p == name for p in case["prompts"]]].reshape(-1) for name in names])


def single(case: dict, std: str, eps: float, clip: float = FAR) -> np.ndarray:
    return sum_then_normalise({"r": by_prompt(case, case["rewards"])}, {"r": 1.0}, std, eps, clip).values


@pytest.mark.parametrize("case", GOLDEN["advantages"], ids=lambda case: case["name"])
def test_sum_then_normalise_matches_the_released_tracker(case):
    expected = {
        ("global", 1e-4): case["tracker_global_std_True"],
        ("group", 1e-4): case["tracker_global_std_False"],
        ("group", 1e-6): case["formula_group_std_population_eps1e-6"],
    }
    for (std, eps), values in expected.items():
        np.testing.assert_allclose(single(case, std, eps), by_prompt(case, values), atol=1e-9)
    np.testing.assert_allclose(single(case, "global", 1e-4, 5.0), by_prompt(case, case["clipped_5_global"]), atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN["gdpo"], ids=lambda case: f"{case['groups']}x{case['group_size']}")
def test_gdpo_matches_the_reference(case):
    tables = {name: np.array(table) for name, table in case["rewards"].items()}
    weights = dict(zip(case["names"], case["weights"], strict=True))
    whitened = normalise_then_sum(tables, weights, "group", 0.0, FAR)
    np.testing.assert_allclose(whitened.values, case["gdpo_batch_whitened"], atol=1e-8)
    summed = sum_then_normalise(tables, weights, "group", 1e-4, FAR)
    np.testing.assert_allclose(summed.values, case["sum_then_group_norm_population_eps_1e-4"], atol=1e-8)


def test_by_hand():
    # Means 2 and 5, population deviations 1 and 2.
    table = {"r": np.array([[1.0, 3.0], [3.0, 7.0]])}
    result = sum_then_normalise(table, {"r": 2.0}, "group", 0.0, 5.0)
    np.testing.assert_allclose(result.values, [[-1, 1], [-1, 1]])
    # Twice the rewards: centred +-2 and +-4 over the batch's deviation sqrt(((-4)^2 + 0 + 0 + 8^2) / 4 - 1) = sqrt(19).
    result = sum_then_normalise(table, {"r": 2.0}, "global", 0.0, 5.0)
    np.testing.assert_allclose(result.values, np.array([[-2, 2], [-4, 4]]) / np.sqrt(19))


def test_a_missing_score_leaves_every_statistic():
    with_gap = {"r": np.array([[1.0, 3.0, np.nan], [3.0, 7.0, 5.0]])}
    result = sum_then_normalise(with_gap, {"r": 1.0}, "group", 0.0, 5.0)
    np.testing.assert_allclose(result.values[0], [-1, 1, 0])
    assert result.mask.tolist() == [[True, True, False], [True, True, True]]
    assert result.samples == 5


def test_sum_leaves_out_a_sample_with_one_missing_dimension_but_not_a_group_without_the_dimension():
    tables = {"a": np.array([[1.0, 3.0], [0.0, 4.0]]), "b": np.array([[np.nan, 2.0], [np.nan, np.nan]])}
    result = sum_then_normalise(tables, {"a": 1.0, "b": 1.0}, "group", 0.0, 5.0)
    assert result.mask.tolist() == [[False, True], [True, True]]
    np.testing.assert_allclose(result.values, [[0, 0], [-1, 1]])


def test_gdpo_uses_what_is_there():
    tables = {"a": np.array([[1.0, 3.0, 5.0]]), "b": np.array([[np.nan, 2.0, 4.0]])}
    result = normalise_then_sum(tables, {"a": 1.0, "b": 1.0}, "group", 0.0, 5.0)
    a = np.array([-1, 0, 1]) * np.sqrt(1.5)
    total = a + np.array([0, -1, 1])
    np.testing.assert_allclose(result.values[0], total / total.std(), atol=1e-12)
    assert result.mask.all()


def test_a_reward_below_its_resolution_stays_small():
    noise = np.array([[0.5, 0.5 + 1e-6, 0.5, 0.5 - 1e-6]])
    signal = np.array([[0.1, 0.2, 0.3, 0.4]])
    both = normalise_then_sum({"n": noise, "s": signal}, {"n": 1.0, "s": 1.0}, "group", 1e-3, 5.0)
    alone = normalise_then_sum({"s": signal}, {"s": 1.0}, "group", 1e-3, 5.0)
    np.testing.assert_allclose(both.values, alone.values, atol=5e-3)


def test_nothing_to_learn_from():
    flat = normalise_then_sum({"r": np.full((2, 3), 0.7)}, {"r": 1.0}, "group", 1e-3, 5.0)
    assert not flat.values.any()
    absent = sum_then_normalise({"r": np.full((2, 3), np.nan)}, {"r": 1.0}, "global", 1e-3, 5.0)
    assert absent.samples == 0
    assert not absent.values.any()


def test_errors_name_the_dimension():
    config = AlgorithmConfig()
    group = {"semantic": np.zeros(8)}
    with pytest.raises(PrismError, match="temporal"):
        advantages([group], {"semantic": 1.0, "temporal": 1.0}, config)
    with pytest.raises(PrismError, match="weight is 0"):
        advantages([group], {"semantic": 0.0}, config)
    with pytest.raises(PrismError, match="one size"):
        advantages([group, {"semantic": np.zeros(4)}], {"semantic": 1.0}, config)
    assert advantages([group], {"semantic": 1.0, "temporal": 0.0}, config).samples == 8


REWARDS = arrays(np.float64, (3, 5), elements=st.one_of(st.floats(0, 1, width=32), st.just(float("nan"))))


HALF_MISSING = np.array([[0.0, 1.0, *[np.nan] * 3], *[[np.nan] * 5] * 2])


@settings(max_examples=60, deadline=None)
@example(a=HALF_MISSING, b=np.zeros((3, 5)), kind="sum", std="global")
@given(a=REWARDS, b=REWARDS, kind=st.sampled_from(["sum", "gdpo"]), std=st.sampled_from(["group", "global"]))
def test_properties(a, b, kind, std):
    config = AlgorithmConfig(advantage=kind, std=std)
    rewards = [{"a": x, "b": y} for x, y in zip(a, b, strict=True)]
    result = advantages(rewards, {"a": 1.0, "b": 0.5}, config)
    assert np.isfinite(result.values).all()
    assert (np.abs(result.values) <= config.adv_clip).all()
    assert not result.values[~result.mask].any()
    assert result.mask[~np.isnan(a) & ~np.isnan(b)].all()
    # A constant offset of one reward changes nothing.
    moved = advantages([{"a": x + 0.25, "b": y} for x, y in zip(a, b, strict=True)], {"a": 1.0, "b": 0.5}, config)
    np.testing.assert_allclose(moved.values, result.values, atol=1e-6)
