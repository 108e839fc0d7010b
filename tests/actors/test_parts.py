from dataclasses import replace

import numpy as np
import pytest

from actors.clock import BusyClock
from actors.flat import flatness, nothing_varies
from actors.messages import GroupInfo, RolloutTask
from actors.missing import rejection
from actors.progress import Progress
from rewards_service.scores import Scores
from tests.actors.fakes import make_group, make_prompts
from trainer.config import AlgorithmConfig
from trainer.group import Window

NAN = float("nan")
NONE = np.array([NAN, NAN])
FULL = {"semantic": np.array([0.1, 0.2]), "temporal": np.array([0.3, 0.4])}


@pytest.mark.parametrize(
    ("rewards", "policy", "reason"),
    [
        (FULL, "drop", ""),
        (FULL, "mask", ""),
        (FULL | {"temporal": np.array([NAN, 0.4])}, "drop", "missing:temporal"),
        (FULL | {"temporal": np.array([NAN, NAN])}, "mask", ""),
        ({name: np.array([NAN, NAN]) for name in FULL}, "mask", "missing:all"),
        ({"semantic": np.array([NAN, 0.1]), "temporal": np.array([NAN, NAN])}, "drop", "missing:temporal"),
    ],
)
def test_what_becomes_of_missing_scores(rewards: dict, policy: str, reason: str) -> None:
    assert rejection(rewards, policy) == reason  # type: ignore[arg-type]


def test_a_dimension_that_says_nothing_about_a_prompt_is_not_missing() -> None:
    rewards = FULL | {"spatial": np.array([NAN, NAN])}
    assert rejection(rewards, "drop") == "missing:spatial"
    assert rejection(rewards, "drop", {"spatial"}) == ""
    assert rejection({"spatial": np.array([NAN, NAN])}, "mask", {"spatial"}) == "missing:all"
    progress = Progress(epoch=0, window=Window(2, 1), samples_expected=8)
    group = GroupInfo.of(replace(make_group(5, 3), rewards={}))
    progress.score([group], {"spatial": Scores(np.full((1, 4), NAN), gated={0: "mono"})})
    assert progress.gated == {3: {"spatial"}}
    assert progress.missing == {"spatial": 0}
    assert progress.missing_share == (0.0, "spatial")


def test_overlapping_work_counts_once() -> None:
    now = [0.0]
    clock = BusyClock(lambda: now[0])
    with clock.running():
        now[0] = 1.0
        with clock.running():
            now[0] = 3.0
        assert clock.seconds == 3.0
        now[0] = 4.0
    now[0] = 10.0
    assert clock.seconds == 4.0
    with clock.running():
        now[0] = 10.5
    assert clock.seconds == 4.5


def test_a_record_sums_up_what_was_accepted() -> None:
    progress = Progress(epoch=0, window=Window(2, 1), samples_expected=8)
    groups = [GroupInfo.of(replace(make_group(5, k, version=4 + k), rewards={})) for k in (0, 1)]
    values = np.array([[0.0, 0.2, 0.4, 0.6], [NAN, 0.5, 0.5, 0.5]])
    progress.score(groups, {"semantic": Scores(values, {(1, 0): "no answer"})})
    progress.groups += groups
    record = progress.record(5, {"semantic": 2})
    assert record.version == 4
    assert record.staleness == 1
    assert record.missing == {"semantic": 1}
    assert record.reward["semantic"] == pytest.approx((0.0 + 0.2 + 0.4 + 0.6 + 1.5) / 7)
    assert record.reward_std["semantic"] == pytest.approx(np.std([0, 0.2, 0.4, 0.6]) / 2)
    assert progress.missing_share == (pytest.approx(1 / 8), "semantic")
    assert record.replicas == {"semantic": 2}
    assert progress.reason == "no answer"


def test_a_replaced_group_leaves_the_share_of_missing_scores() -> None:
    progress = Progress(epoch=0, window=Window(2, 1), samples_expected=8)
    for index, missing in ((0, 1), (4, 2)):
        group = GroupInfo.of(replace(make_group(5, index), rewards={}))
        values = np.full((1, 4), 0.5)
        values[0, :missing] = NAN
        progress.score([group], {"semantic": Scores(values, {(0, k): "no answer" for k in range(missing)})})
        # A task that is sampled anew is scored anew; its groups count once.
        progress.score([group], {"semantic": Scores(values, {(0, k): "no answer" for k in range(missing)})})
    assert progress.missing == {"semantic": 3}
    assert progress.missing_share == (pytest.approx(3 / 8), "semantic")
    progress.replaced.add(0)
    assert progress.missing_share == (pytest.approx(2 / 8), "semantic")
    assert progress.missing == {"semantic": 3}


@pytest.mark.parametrize(
    ("settings", "weights", "expected"),
    [
        ({}, {"semantic": 1.0, "temporal": 0.5}, ""),
        ({}, {"semantic": 1.0, "temporal": 0.0}, "flat"),
        ({"reward_floor": 0.06}, {"semantic": 1.0, "temporal": 0.5}, "flat"),
        ({"refills": 0}, {"semantic": 1.0, "temporal": 0.0}, ""),
    ],
)
def test_what_counts_as_flat(settings: dict, weights: dict[str, float], expected: str) -> None:
    rewards = {"semantic": np.array([0.4, 0.4, 0.4]), "temporal": np.array([0.3, 0.4, NAN])}
    assert flatness(rewards, weights, AlgorithmConfig.model_validate(settings)) == expected


def test_what_is_said_when_nothing_varies_names_the_rewards() -> None:
    groups = [
        replace(GroupInfo.of(make_group(0, k)), rewards={"semantic": np.array([k, k + 0.002]), "temporal": NONE})
        for k in (0, 1)
    ]
    told = nothing_varies(0, groups, {"semantic": 1.0, "temporal": 0.5, "spatial": 0.0}, AlgorithmConfig())
    assert "semantic 0.501 (0.001), temporal never scored. If" in told
    assert "there is nothing to train" in told
    assert "resume it with learner.iterations=9 " in nothing_varies(9, groups, {"semantic": 1.0}, AlgorithmConfig())


def test_a_task_names_its_groups_by_their_place_in_the_iteration() -> None:
    task = RolloutTask(3, 0, Window(0, 1), (4, 7), tuple(make_prompts(2)), seed=0)
    assert task.group_ids == ("000003-0004", "000003-0007")
