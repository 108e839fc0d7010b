"""Runs on real Ray, with a fake model and fake rewards: processes die, and nothing is lost."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.buffer import ExperienceError
from actors.coordinator import CoordinatorError
from actors.pool import PoolError
from actors.schedule import prompts_of
from rewards_service.service.client import RewardClient
from tests.actors.conftest import Run
from tests.actors.fakes import FakeGenerator, FakeRewards, MarkScorer

Start = Callable[..., Run]


def marks(iteration: int, batch: int = 4) -> list[float]:
    """What a synchronous run keeps of an iteration: weights of that version, all indices in order."""
    return [10_000.0 * iteration + 100 * iteration + index for index in range(batch)]


def test_a_run_over_processes_and_what_survives_its_workers(start: Start) -> None:
    run = start(iterations=4, workers=2)
    run.begin()
    for iteration in range(3):
        run.finish(run.take(iteration))
    assert run.get(run.actors.weights.versions.remote()) == [2, 3]
    batch = run.take(3)
    for worker in run.actors.workers:
        ray.kill(worker)
    run.finish(batch)
    assert run.kept == {iteration: marks(iteration) for iteration in range(4)}
    ledger = run.settle()
    assert ledger == {"submitted": 16, "accepted": 16, "trained": 16, "open": 0, "dropped": {}, "lost": {}}
    status = run.status()
    assert status["totals"] == {"groups": 16, "samples": 64, "nfe": 80}
    assert status["seconds"]["rollout"] > 0
    run.publish(3)
    assert run.get(run.actors.weights.versions.remote()) == [3]
    with pytest.raises(Exception, match=r"version 1 are not held; held are \[3\]"):
        run.get(run.actors.weights.get.remote(1))


@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_a_rollout_that_never_answers_is_sent_again_to_a_new_process(start: Start, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"{kind}-1-2").touch()
    run = start(iterations=3, generator=FakeGenerator(trap=str(tmp_path)), workers=1, deadline_s=3.0)
    run.begin()
    run.train()
    assert run.kept == {iteration: marks(iteration) for iteration in range(3)}
    ledger = run.settle()
    assert (ledger["submitted"], ledger["trained"], ledger["lost"]) == (12, 12, {})
    assert run.status()["resubmitted"] >= 1
    assert run.status()["restarts"] >= 1


def replaced(iteration: int, flat: frozenset[str], batch: int = 4, total: int = 10, refills: int = 2) -> list[int]:
    """Indices of the groups a run of seed 11 keeps when these clips are flat."""
    kept = []
    for slot in range(batch):
        attempts = [slot + attempt * batch for attempt in range(refills + 1)]
        clips = [f"clip-{k}" for k in prompts_of(11, iteration, attempts, batch, total)]
        kept += [index for index, clip in zip(attempts, clips, strict=True) if clip not in flat][:1]
    return sorted(kept)


def test_flat_clips_are_replaced_while_workers_are_killed(start: Start) -> None:
    flat = frozenset({"clip-0", "clip-3", "clip-4", "clip-8"})
    rewards = partial(FakeRewards, flat=flat)
    run = start(iterations=5, generator=FakeGenerator(delay_s=0.05), workers=2, rewards=rewards)
    pids = [run.get(worker.ready.remote()) for worker in run.actors.workers]
    run.begin()
    for iteration in range(5):
        if iteration in (1, 3):
            os.kill(pids.pop(), signal.SIGKILL)
        run.finish(run.take(iteration))
    expected = {iteration: replaced(iteration, flat) for iteration in range(5)}
    assert {i: [int(mark) % 100 for mark in kept] for i, kept in run.kept.items()} == expected
    ledger = run.settle()
    assert ledger["trained"] == sum(map(len, expected.values()))
    assert ledger["dropped"]["flat"] == ledger["submitted"] - ledger["trained"]
    assert (ledger["lost"], ledger["open"]) == ({}, 0)
    records = run.get(run.actors.coordinator.records.remote())
    assert sum(record.refilled for record in records) == ledger["submitted"] - 20


def test_workers_killed_from_outside_cost_nothing(start: Start) -> None:
    run = start(iterations=6, generator=FakeGenerator(delay_s=0.05), workers=2)
    pids = [run.get(worker.ready.remote()) for worker in run.actors.workers]
    run.begin()
    for iteration in range(6):
        if iteration in (1, 3):
            os.kill(pids.pop(), signal.SIGKILL)
        run.finish(run.take(iteration))
    assert run.kept == {iteration: marks(iteration) for iteration in range(6)}
    assert run.settle()["trained"] == 24


def test_reward_replicas_killed_from_outside_cost_nothing(start: Start) -> None:
    replicas = {
        name: [ray.remote(MarkScorer).options(num_cpus=0.1, max_restarts=-1, max_task_retries=0).remote()]
        for name in ("temporal", "spatial")
    }
    weights = dict.fromkeys(replicas, 1.0)
    pids: Any = [ray.get(handles[0].pid.remote(), timeout=60) for handles in replicas.values()]
    run = start(iterations=4, rewards=partial(RewardClient, replicas, deadline_s=60.0), weights=weights)
    run.begin()
    for iteration in range(4):
        if iteration in (1, 2):
            os.kill(pids.pop(), signal.SIGKILL)
        run.finish(run.take(iteration))
    assert run.kept == {iteration: marks(iteration) for iteration in range(4)}
    ledger = run.settle()
    assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (16, 16, {})


def test_weights_that_do_not_arrive_whole_end_the_run(start: Start) -> None:
    run = start(generator=FakeGenerator(wrong_checksum=True))
    run.begin()
    with pytest.raises(ExperienceError, match="arrived with checksum wrong"):
        run.take(0)


def test_a_generator_that_cannot_be_built_is_reported_at_the_start(start: Start) -> None:
    with pytest.raises((PoolError, CoordinatorError), match=r"no checkpoint at assets/none.safetensors"):
        start(generator=Unbuildable())


class Unbuildable(FakeGenerator):
    """Fails when a worker builds it."""

    def __reduce__(self) -> tuple:
        return _refuse, ()


def _refuse() -> None:
    raise FileNotFoundError("no checkpoint at assets/none.safetensors")
