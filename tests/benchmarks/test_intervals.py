import math

import numpy as np
import pytest

from benchmarks.intervals import Interval, adjusted_mean, bootstrap, crossing, student


def test_student_by_hand() -> None:
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3), t(2, 0.975) = 4.302653.
    found = student(np.array([1.0, 2.0, 3.0]))
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_student_leaves_out_what_is_missing() -> None:
    assert student(np.array([1.0, np.nan, 3.0])) == student(np.array([1.0, 3.0]))
    one = student(np.array([5.0]))
    assert (one.value, math.isnan(one.low)) == (5.0, True)
    assert math.isnan(student(np.array([np.nan])).value)


def test_bootstrap_of_a_mean_has_the_known_width() -> None:
    values = np.arange(100.0)
    found = bootstrap(lambda rows: values[rows].mean(), 100)
    half = 1.96 * values.std() / 10  # normal approximation; 2000 resamples are good to a few per cent
    assert found.value == 49.5
    assert found.high - 49.5 == pytest.approx(half, rel=0.1)
    assert 49.5 - found.low == pytest.approx(half, rel=0.1)


def test_bootstrap_without_spread_or_without_values() -> None:
    assert bootstrap(lambda rows: 3.0, 5) == Interval(3.0, 3.0, 3.0)
    lost = bootstrap(lambda rows: math.nan, 5)
    assert math.isnan(lost.value)
    assert math.isnan(lost.low)


def test_adjusted_mean_recovers_the_mean_over_all_starts() -> None:
    # Cost 2 + 3 n; only n = 10 and 20 were seen, the policy's mean is 25.
    seen = np.array([10.0, 20.0, 20.0])
    assert adjusted_mean(2 + 3 * seen, seen, 25.0) == pytest.approx(77.0)
    assert adjusted_mean(np.array([5.0, 7.0]), np.array([8.0, 8.0]), 8.0) == 6.0


def test_crossing_by_hand() -> None:
    x, y = np.array([0.0, 10.0, 20.0, 30.0]), np.array([0.5, 0.6, 0.55, 0.8])
    assert crossing(x, y, 0.5) == 0.0
    assert crossing(x, y, 0.55) == pytest.approx(5.0)
    # The dip at 20 counts as 0.6, so 0.7 lies half-way between 0.6 at 20 and 0.8 at 30.
    assert crossing(x, y, 0.7) == pytest.approx(25.0)
    assert math.isnan(crossing(x, y, 0.81))


def test_intervals_are_written_with_their_bounds() -> None:
    assert Interval(0.741, 0.72, 0.762).text() == "0.741 (0.720 to 0.762)"
    assert Interval(0.741, 0.72, 0.762).text(2, sign=True) == "+0.74 (+0.72 to +0.76)"
    assert Interval(4.0).text(1) == "4.0"
    assert Interval(math.nan).text() == "–"
