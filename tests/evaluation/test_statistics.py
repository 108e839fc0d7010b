import numpy as np
import pytest

from evaluation.statistics import jackknife, mean_estimate, pearson


def test_mean_by_hand() -> None:
    result = mean_estimate(np.array([1.0, 2.0, 3.0, np.nan]))
    assert (result.mean, result.n) == (2.0, 3)
    assert result.stderr == pytest.approx(1 / np.sqrt(3))


def test_one_value_has_no_error_and_none_has_no_mean() -> None:
    assert mean_estimate(np.array([0.5])).as_dict() == {"mean": 0.5, "stderr": None, "n": 1}
    assert mean_estimate(np.array([np.nan])).as_dict() == {"mean": None, "stderr": None, "n": 0}


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    scenes = [np.array([[v]]) for v in (1.0, 2.0, 4.0, 9.0)]
    result = jackknife(scenes, lambda rows: float(rows.mean()))
    assert result.mean == 4.0
    assert result.stderr == pytest.approx(np.std([1, 2, 4, 9], ddof=1) / 2)


def test_jackknife_leaves_out_scenes_not_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 2)) + rng.standard_normal((40, 1))
    doubled = [np.stack([row, row]) for row in rows]
    single = [row[None] for row in rows]
    assert jackknife(doubled, pearson).stderr == pytest.approx(jackknife(single, pearson).stderr)


def test_correlation_needs_variance_and_rows() -> None:
    assert pearson(np.array([[0, 0], [1, 2], [2, 4.0]])) == pytest.approx(1.0)
    assert np.isnan(pearson(np.array([[0, 1], [1, 2.0]])))
    assert np.isnan(pearson(np.array([[0, 1], [1, 1], [2, 1.0]])))
