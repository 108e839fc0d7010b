"""Nothing but numbers in [0, 1] of the right shape passes as a score."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewards_service.scores import Scores
from rewards_service.service.verdict import all_missing, checked


@pytest.mark.parametrize(
    "answer",
    [
        None,
        np.zeros((2, 3)),
        Scores(np.zeros((3, 2))),
        Scores(np.zeros((2, 3), np.int64)),
        Scores(np.array([["a"] * 3] * 2)),
        Scores([[0.0, 0.0, 0.0]] * 1),  # pyright: ignore[reportArgumentType]
    ],
)
def test_another_type_or_shape_loses_everything(answer: Any) -> None:
    scores, problem = checked(answer, 2, 3)
    assert problem
    assert np.isnan(scores.values).all()
    assert set(scores.missing.values()) == {problem}
    assert len(scores.missing) == 6


@given(arrays(np.float64, (2, 3), elements=st.floats(-2, 2) | st.just(np.nan) | st.just(np.inf)))
def test_every_value_is_a_number_in_range_or_missing_with_a_reason(values: np.ndarray) -> None:
    scores, problem = checked(Scores(values), 2, 3)
    good = np.isfinite(values) & (values >= 0) & (values <= 1)
    np.testing.assert_array_equal(scores.values[good], values[good])
    assert np.isnan(scores.values[~good]).all()
    assert set(scores.missing) == {(int(g), int(n)) for g, n in np.argwhere(~good)}
    assert (problem is None) == good.all()


def test_an_explained_gap_is_no_problem_and_its_number_is_not_used() -> None:
    scores, problem = checked(Scores(np.full((1, 2), 0.5), {(0, 1): "no sound track"}), 1, 2)
    assert problem is None
    np.testing.assert_array_equal(scores.values, [[0.5, np.nan]])
    assert scores.missing == {(0, 1): "no sound track"}


def test_all_missing() -> None:
    scores = all_missing(1, 2, "gone")
    assert np.isnan(scores.values).all()
    assert scores.missing == {(0, 0): "gone", (0, 1): "gone"}
