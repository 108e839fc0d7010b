"""Whole runs on real Ray, with a fake model and fake rewards."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from actors.buffer import ExperienceError
from actors.config import BufferConfig
from actors.coordinator import CoordinatorError
from actors.pool import PoolError
from actors.schedule import choose_prompts
from tests.actors.conftest import DEADLINE_S, Run
from tests.actors.fakes import FakeGenerator, FakeRewards, make_group

Start = Callable[..., Run]


def marks(iteration: int, batch: int = 4) -> list[float]:
    """What a synchronous run keeps of an iteration: weights of that version, all indices in order."""
    return [10_000.0 * iteration + 100 * iteration + index for index in range(batch)]


def test_a_synchronous_run_trains_every_group_once_in_order_with_the_newest_weights(start: Start) -> None:
    run = start(workers=2)
    run.begin()
    run.train()
    assert run.kept == {iteration: marks(iteration) for iteration in range(4)}
    ledger = run.settle()
    assert ledger == {"submitted": 16, "accepted": 16, "trained": 16, "open": 0, "dropped": {}, "lost": {}}
    records = run.get(run.actors.coordinator.records.remote())
    assert [record.staleness for record in records] == [0, 0, 0, 0]
    assert [record.samples for record in records] == [16, 16, 16, 16]
    assert [record.nfe for record in records] == [20, 20, 20, 20]
    expected = (100 * 3 + (0 + 1 + 2 + 3) / 4) / 10_000
    assert records[3].reward == pytest.approx(dict.fromkeys(("semantic", "temporal", "aesthetic", "spatial"), expected))
    status = run.status()
    assert status["totals"] == {"groups": 16, "samples": 64, "nfe": 80}
    assert (status["restarts"], status["resubmitted"], status["error"]) == (0, 0, "")


def test_prompts_follow_the_schedule(start: Start) -> None:
    run = start(iterations=2)
    run.begin()
    batch = run.take(0)
    assert [info.clip_id for info in batch.groups] == [f"clip-{k}" for k in choose_prompts(11, 0, 4, 10)]


@pytest.mark.parametrize("kind", ["kill", "raise", "hang"])
def test_a_failed_rollout_is_sent_again_and_nothing_is_lost(start: Start, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"{kind}-1-2").touch()
    run = start(iterations=3, generator=FakeGenerator(trap=str(tmp_path)), workers=1, deadline_s=3.0)
    run.begin()
    run.train()
    assert run.kept == {iteration: marks(iteration) for iteration in range(3)}
    ledger = run.settle()
    assert (ledger["submitted"], ledger["trained"], ledger["lost"]) == (12, 12, {})
    assert run.status()["resubmitted"] == 1
    assert run.status()["restarts"] == (0 if kind == "raise" else 1)


def test_a_worker_killed_from_outside_at_any_time_costs_nothing(start: Start) -> None:
    run = start(iterations=6, generator=FakeGenerator(delay_s=0.05), workers=2)
    run.begin()
    for iteration in range(6):
        if iteration in (1, 3):
            pid = run.get(run.actors.workers[iteration % 2].ready.remote())
            os.kill(pid, signal.SIGKILL)
        run.finish(run.take(iteration))
    assert run.kept == {iteration: marks(iteration) for iteration in range(6)}
    assert run.settle()["trained"] == 24


def test_what_the_buffer_accepted_outlives_the_worker_that_made_it(start: Start) -> None:
    run = start(iterations=1)
    run.begin()
    batch = run.take(0)
    for worker in run.actors.workers:
        ray.kill(worker)
    assert [group.index for group in run.get(batch.refs)] == [0, 1, 2, 3]


def test_a_task_that_always_fails_is_lost_and_the_rest_is_trained(start: Start, tmp_path: Path) -> None:
    run = start(iterations=2, generator=FakeGenerator(trap=str(tmp_path)), max_attempts=1)
    (tmp_path / "raise-0-0").touch()
    run.begin()
    run.train()
    assert run.kept[0] == marks(0)[2:]
    ledger = run.settle()
    assert (ledger["submitted"], ledger["trained"]) == (8, 6)
    assert ledger["lost"] == {"RuntimeError: a trap was set": 2}


def test_an_iteration_without_any_group_ends_the_run_with_the_reason(start: Start, tmp_path: Path) -> None:
    for index in (0, 2):
        (tmp_path / f"raise-0-{index}").touch()
    run = start(generator=FakeGenerator(trap=str(tmp_path)), max_attempts=1)
    run.begin()
    with pytest.raises(ExperienceError, match=r"not one of its 4 groups survived.*a trap was set"):
        run.take(0)


def test_groups_with_missing_scores_are_dropped_and_counted(start: Start) -> None:
    run = start(iterations=2, rewards=FakeRewards(gaps=(("temporal", 2.0), ("spatial", 103.0))))
    run.begin()
    run.train()
    assert run.kept[0] == [0.0, 1.0, 3.0]
    assert run.kept[1] == marks(1)[:3]
    assert run.settle()["dropped"] == {"missing:temporal": 1, "missing:spatial": 1}


def test_masked_groups_reach_the_learner_with_their_gaps(start: Start) -> None:
    run = start(iterations=1, rewards=FakeRewards(gaps=(("temporal", 2.0),)), missing="mask")
    run.begin()
    rewards = run.take(0).groups[2].rewards
    assert [name for name, values in rewards.items() if values[0] != values[0]] == ["temporal"]


def test_too_many_missing_scores_end_the_run(start: Start) -> None:
    run = start(rewards=FakeRewards(gaps=(("temporal", 2.0),)), max_missing_share=0.01)
    run.begin()
    with pytest.raises(ExperienceError, match=r"scores are missing \(.*'temporal': 1.*max_missing_share"):
        run.take(0)


def test_asynchronous_sampling_leads_by_at_most_the_allowed_staleness(start: Start) -> None:
    run = start(iterations=5, max_staleness=2, workers=2)
    run.begin()
    run.until(lambda: run.status()["buffer"]["items"] == 12)
    assert run.status()["next_iteration"] == 3
    run.train()
    records = run.get(run.actors.coordinator.records.remote())
    assert [record.staleness for record in records] == [0, 1, 2, 2, 2]
    assert run.settle()["trained"] == 20


def test_a_full_buffer_holds_back_later_iterations_and_never_blocks_the_current_one(start: Start) -> None:
    run = start(iterations=5, max_staleness=3, workers=2, buffer=BufferConfig(max_items=5))
    run.begin()
    run.until(lambda: run.status()["buffer"]["items"] == 5)
    run.train()
    assert run.status()["buffer"]["peak_items"] == 5
    assert run.settle()["trained"] == 20


def test_an_iteration_larger_than_the_buffer_is_a_clear_error(start: Start) -> None:
    run = start(buffer=BufferConfig(max_bytes=3 * make_group(0, 0).nbytes))
    run.begin()
    with pytest.raises(ExperienceError, match="alone fill the experience buffer"):
        run.take(0)


def test_a_learner_that_starts_over_gets_the_same_groups_again(start: Start) -> None:
    run = start(iterations=4, generator=FakeGenerator(delay_s=0.05), max_staleness=1)
    run.begin()
    run.finish(run.take(0))
    run.finish(run.take(1))
    first = dict(run.kept)
    run.begin(1)
    assert run.get(run.actors.weights.versions.remote()) == [1]
    run.train(first=1)
    assert [mark % 10_000 for mark in run.kept[1]] == [mark % 10_000 for mark in first[1]]
    ledger = run.settle()
    assert (ledger["submitted"], ledger["trained"], ledger["open"]) == (16, 16, 0)
    assert [record.iteration for record in run.get(run.actors.coordinator.records.remote())] == [0, 1, 2, 3]


def test_stopping_ends_at_the_next_batch_and_the_books_balance(start: Start) -> None:
    run = start(iterations=9, max_staleness=1)
    run.begin()
    run.finish(run.take(0))
    run.get(run.actors.coordinator.request_stop.remote())
    assert run.take(1).stop
    ledger = run.settle()
    assert ledger["trained"] == 4
    assert ledger["submitted"] == 4 + sum(ledger["dropped"].values())
    assert set(ledger["dropped"]) == {"stopped"}


def test_weights_that_do_not_arrive_whole_end_the_run(start: Start) -> None:
    run = start(generator=FakeGenerator(wrong_checksum=True))
    run.begin()
    with pytest.raises(ExperienceError, match="arrived with checksum wrong"):
        run.take(0)


def test_a_generator_that_cannot_be_built_is_reported_at_the_start(start: Start) -> None:
    with pytest.raises((PoolError, CoordinatorError), match=r"could not start|did not start"):
        start(generator=Unbuildable())


class Unbuildable(FakeGenerator):
    """Fails when a worker receives it."""

    def __reduce__(self) -> tuple:
        return _refuse, ()


def _refuse() -> None:
    raise FileNotFoundError("no checkpoint at assets/none.safetensors")


def test_the_weight_store_keeps_two_versions_and_rolls_back(start: Start) -> None:
    run = start(iterations=1)
    for version in (0, 1, 2):
        run.publish(version)
    assert run.get(run.actors.weights.versions.remote()) == [1, 2]
    with pytest.raises(Exception, match=r"version 0 are not held; held are \[1, 2\]"):
        ray.get(run.actors.weights.get.remote(0), timeout=DEADLINE_S)
    version, checksum, (ref,) = run.get(run.actors.weights.get.remote())
    assert (version, checksum, run.get(ref)["weight"][0]) == (2, "weights-2", 2.0)
    run.publish(1)
    assert run.get(run.actors.weights.versions.remote()) == [1]
