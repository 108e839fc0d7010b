"""The client on real Ray actors that hang, die, raise or answer nonsense."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rewards_service.errors import RefusedError, RewardError
from rewards_service.scores import Reference, Scores
from rewards_service.service.client import RewardClient
from rewards_service.service.endpoint import Request
from tests.rewards_service.service.replicas import Answers, DiesOnce, Good, Hangs, HangsOnce, Raises

SOUNDS = np.zeros((2, 3, 2, 160), np.float32)
REFERENCES = [Reference(str(i), "", 1.0, (), (), 1.0) for i in range(2)]
Start = Callable[..., Any]


@pytest.fixture
def start(ray_session: str) -> Iterator[Start]:
    """Starts a replica; all are killed afterwards."""
    handles: list[Any] = []

    def begin(kind: type, *arguments: Any) -> Any:
        actor = ray.remote(kind).options(num_cpus=0.01, max_restarts=-1, max_task_retries=0).remote(*arguments)
        ray.get(actor.pid.remote(), timeout=60)
        handles.append(actor)
        return actor

    yield begin
    for handle in handles:
        ray.kill(handle)


def score(client: RewardClient) -> dict[str, Scores]:
    return client.score_all_blocking(SOUNDS, 16000, REFERENCES)


def all_half(scores: Scores) -> bool:
    return scores.values.tolist() == [[0.5] * 3] * 2 and not scores.missing


def lost_because(scores: Scores) -> str:
    """The one reason for which all six scores are missing."""
    assert np.isnan(scores.values).all()
    assert scores.values.shape == (2, 3)
    (reason,) = set(scores.missing.values())
    assert len(scores.missing) == 6
    return reason


def test_all_dimensions_are_scored_from_arrays_and_references(start: Start) -> None:
    client = RewardClient({"temporal": [start(Good)], "spatial": [start(Good)]}, deadline_s=30)
    assert all(all_half(s) for s in score(client).values())
    shared = ray.put(SOUNDS)
    scores = asyncio.run(client.score_all(shared, 16000, REFERENCES))
    assert set(scores) == {"temporal", "spatial"}
    assert all(all_half(s) for s in scores.values())


def test_a_hung_replica_costs_one_deadline_and_its_neighbour_answers(start: Start) -> None:
    client = RewardClient({"temporal": [start(Hangs), start(Good)]}, deadline_s=1.5, patience=1, rest_s=60)
    assert all_half(score(client)["temporal"])
    assert client.resting() == {"temporal": 1}
    assert all_half(score(client)["temporal"])


def test_the_only_replica_is_restarted_when_it_hangs_or_dies(start: Start, tmp_path: Path) -> None:
    replicas = {
        "temporal": [start(HangsOnce, str(tmp_path / "hung"))],
        "spatial": [start(DiesOnce, str(tmp_path / "died"))],
        "semantic": [start(Good)],
    }
    scores = score(RewardClient(replicas, deadline_s=20))
    assert all(all_half(s) for s in scores.values()), {d: s.missing for d, s in scores.items()}


def test_a_failed_dimension_is_missing_with_its_reason_and_the_others_stand(start: Start) -> None:
    wrong = Scores(np.full((3, 2), 0.5))
    replicas = {
        "semantic": [start(Good)],
        "temporal": [start(Hangs)],
        "aesthetic": [start(Raises)],
        "spatial": [start(Answers, wrong)],
    }
    scores = score(RewardClient(replicas, deadline_s=1.0))
    assert all_half(scores["semantic"])
    assert "no answer within 1 s" in lost_because(scores["temporal"])
    assert "the scorer raised ValueError: no such filter" in lost_because(scores["aesthetic"])
    assert "shape (3, 2)" in lost_because(scores["spatial"])


def test_nan_without_a_reason_is_missing_with_one(start: Start) -> None:
    values = np.full((2, 3), 0.25)
    values[1, 2] = np.nan
    values[0, 0] = np.inf
    scores = score(RewardClient({"temporal": [start(Answers, Scores(values))]}, deadline_s=30))["temporal"]
    assert scores.missing == {(0, 0): "the scorer answered inf", (1, 2): "the scorer answered nan"}
    assert np.isnan(scores.values).sum() == 2
    assert np.nanmean(scores.values) == 0.25


def test_a_replica_killed_for_good_is_a_reason_not_an_exception(start: Start) -> None:
    dead, other = start(Good), start(Good)
    client = RewardClient({"temporal": [dead], "spatial": [other]}, deadline_s=2.0)
    ray.kill(dead, no_restart=True)
    scores = score(client)
    assert all_half(scores["spatial"])
    assert "died" in lost_because(scores["temporal"])


def test_a_dimension_without_replicas_is_refused() -> None:
    with pytest.raises(RewardError, match="No replicas for spatial"):
        RewardClient({"temporal": [object()], "spatial": []})


class Full:
    """An endpoint whose queue is full at first."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked, self.patient = refusals, 0, []

    async def score(self, request: Request, patient: bool = False) -> Scores:
        self.asked += 1
        self.patient.append(patient)
        if self.asked <= self.refusals:
            raise RefusedError("the replica's queue is full")
        return Scores(np.full((2, 3), 0.5))

    async def give_up(self, request: Request, deadline_s: float) -> None:
        raise AssertionError("nothing was late")

    def resting(self) -> int:
        return 0


def test_a_full_queue_is_nobody_s_failure_and_the_second_try_is_patient(ray_session: str) -> None:
    full = Full(1)
    client = RewardClient({"temporal": [full]}, patience=1, rest_s=60)
    assert all_half(score(client)["temporal"])
    assert full.patient == [False, True]
    assert client.resting() == {"temporal": 0}
    refusing = RewardClient({"temporal": [Full(2)]})
    assert lost_because(score(refusing)["temporal"]).count("queue is full") == 2


def test_bounds_are_those_of_the_dimension(start: Start) -> None:
    replica = start(Answers, Scores(np.full((2, 3), -0.5)))
    inside = RewardClient({"temporal": [replica]}, bounds={"temporal": (-1.0, 1.0)})
    assert score(inside)["temporal"].values.tolist() == [[-0.5] * 3] * 2
    assert "scorer answered -0.5" in lost_because(score(RewardClient({"temporal": [replica]}))["temporal"])


def test_judges_are_asked_only_by_name(start: Start) -> None:
    client = RewardClient({"temporal": [start(Good)], "judge_temporal": [start(Good)]})
    assert set(score(client)) == {"temporal"}
    only = client.score_all_blocking(SOUNDS, 16000, REFERENCES, dimensions=["judge_temporal"])
    assert all_half(only["judge_temporal"])


def test_calls_failures_and_missing_scores_are_counted(start: Start) -> None:
    client = RewardClient({"temporal": [start(Good)], "spatial": [start(Raises)]}, deadline_s=30)
    score(client)
    found = asyncio.run(client.status())
    assert found["temporal"] == {
        "running": 1, "wanted": 1, "in_flight": 0, "resting": 0, "calls": 1, "failures": 0, "missing": 0
    }  # fmt: skip
    assert (found["spatial"]["calls"], found["spatial"]["failures"], found["spatial"]["missing"]) == (0, 2, 6)
