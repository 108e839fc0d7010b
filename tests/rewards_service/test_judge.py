"""The independent classifier."""

from pathlib import Path

import numpy as np
import pytest

from rewards_service.errors import RewardError
from rewards_service.judge import Judge, fit
from tests.rewards_service.conftest import RATE, World


@pytest.fixture(scope="module")
def judge(school: World) -> Judge:
    return fit(school.sounds[:, 0], school.labels, sample_rate=RATE, seed=3, steps=150)


def test_it_tells_the_classes_apart(judge: Judge, world: World) -> None:
    found = judge.predict(world.sounds[:, 0], RATE)
    assert np.mean(np.array(found) == np.array(world.labels)) > 0.9


def test_level_does_not_matter(judge: Judge, world: World) -> None:
    assert judge.predict(0.02 * world.sounds[:, 0], RATE) == judge.predict(world.sounds[:, 0], RATE)


def test_probabilities_sum_to_one(judge: Judge, world: World) -> None:
    probabilities = judge.probabilities(world.sounds[:, 0], RATE)
    assert probabilities.shape == (len(world.scenes), len(judge.labels))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_saving_and_loading_changes_nothing(judge: Judge, world: World, tmp_path: Path) -> None:
    judge.save(tmp_path / "j.safetensors")
    again = Judge.load(tmp_path / "j.safetensors")
    np.testing.assert_array_equal(
        again.probabilities(world.sounds[:, 0], RATE), judge.probabilities(world.sounds[:, 0], RATE)
    )


def test_one_class_is_not_enough(school: World) -> None:
    with pytest.raises(RewardError, match="at least two classes"):
        fit(school.sounds[:4, 0], ["glass"] * 4, sample_rate=RATE, seed=0)
