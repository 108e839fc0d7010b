"""Velocity jumps of a path, with numbers derived by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_service.impacts import fill, impulses, running_median


def vertical(y: np.ndarray) -> np.ndarray:
    return np.stack([np.linspace(10, 20, len(y)), y], axis=1)


@given(fraction=st.floats(0, 0.99), speed=st.floats(2, 12))
def test_the_time_between_frames_is_exact_for_straight_paths(fraction: float, speed: float) -> None:
    at = 10 + fraction
    times, sizes = impulses(vertical(90 - speed * np.abs(np.arange(24) - at)))
    assert times == pytest.approx([at], abs=1e-6)
    assert sizes == pytest.approx([2 * speed])


def test_free_fall_is_no_impact() -> None:
    assert len(impulses(vertical(0.8 * np.arange(20) ** 2))[0]) == 0


def test_gravity_does_not_move_the_time() -> None:
    t = np.arange(20)
    times, _ = impulses(vertical(90 - 1.5 * np.abs(t - 9.25) * (9.25 - np.abs(t - 9.25))))
    assert times == pytest.approx([9.25], abs=0.15)


def test_a_first_stop_counts_but_settling_after_a_bounce_does_not() -> None:
    stop = np.minimum(6.0 * np.arange(20), 60.0)
    assert impulses(vertical(stop))[0] == pytest.approx([10.0])
    settle = np.concatenate([60 - 6.0 * np.abs(np.arange(16) - 8), np.full(8, 60.0)])
    settle[16:20] = [18, 24, 30, 36]
    settle[12:24] = np.minimum(36 + 6.0 * np.arange(12), 60.0)
    assert impulses(vertical(settle))[0] == pytest.approx([8.0, 12.0], abs=0.01)


def test_gaps_are_bridged_and_short_paths_say_nothing() -> None:
    path = vertical(90 - 6.0 * np.abs(np.arange(20) - 10.0))
    path[[4, 5, 15]] = np.nan
    assert impulses(path)[0] == pytest.approx([10.0])
    np.testing.assert_allclose(fill(path)[4, 1], 54.0)
    path[4:] = np.nan
    assert len(impulses(path)[0]) == 0


def test_running_median_shrinks_at_the_ends() -> None:
    values = np.array([[5.0], [1.0], [4.0], [2.0], [9.0]])
    np.testing.assert_array_equal(running_median(values, 3)[:, 0], [3.0, 4.0, 2.0, 4.0, 5.5])
