"""The picture of a supervised run: long runs, short ones, and steps without a loss."""

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation.plot_losses import means, plot_losses


def test_means_keep_the_ends_and_the_level() -> None:
    x, y = means(range(1, 1001), [3.0] * 1000, 10)
    assert x.tolist() == [50.5 + 100 * k for k in range(10)]
    assert y == pytest.approx(3.0)
    assert [part.tolist() for part in means([1.0, 2.0], [5.0, 6.0])] == [[1.0, 2.0], [5.0, 6.0]]


@pytest.mark.parametrize("steps", [0, 1, 5, 3000])
def test_runs_of_any_length_are_drawn(tmp_path, steps) -> None:
    records = [{"version": k + 1, "loss": 1 / (k + 1), "lr": 1e-4} for k in range(steps)]
    if steps > 1:
        records[0]["loss"] = None
        records[-1]["validation"] = {"loss": 0.5}
    plot_losses(records, tmp_path / "losses.png", "a run of $5")
    picture = imread(tmp_path / "losses.png")
    coloured = np.ptp(picture[..., :3], axis=2).max() > 0.3
    assert coloured == (steps > 0)
