"""The coordinator with in-process actors: what is admitted, retried, dropped, lost and told to the learner."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors.buffer import ExperienceBuffer, ExperienceError
from actors.config import BufferConfig
from actors.coordinator import Coordinator, CoordinatorError
from actors.rollout import RolloutError
from actors.schedule import choose_prompts
from tests.actors.fakes import FakeRewards, make_group
from tests.actors.local import Local, LocalWorker, die, stumble
from tests.actors.rig import marks, rig, settled

Strike = Callable[[], Awaitable[None]]


def test_a_synchronous_run_keeps_its_order_and_counts() -> None:
    async def work() -> None:
        run = rig(LocalWorker(), LocalWorker())
        await run.begin()
        await run.train()
        assert run.kept == {iteration: marks(iteration) for iteration in range(3)}
        assert await run.buffer.finish() == {
            "submitted": 12,
            "accepted": 12,
            "trained": 12,
            "open": 0,
            "dropped": {},
            "lost": {},
        }
        records = await run.coordinator.records()
        assert [(r.iteration, r.version, r.staleness, r.groups, r.samples, r.nfe) for r in records] == [
            (i, i, 0, 4, 16, 20) for i in range(3)
        ]
        assert records[2].reward["semantic"] == pytest.approx((200 + (0 + 1 + 2 + 3) / 4) / 10_000 + 0.015)

    asyncio.run(work())


def test_prompts_follow_the_schedule() -> None:
    async def work() -> None:
        run = rig()
        await run.begin()
        batch = await run.take(0)
        assert [info.clip_id for info in batch.groups] == [f"clip-{k}" for k in choose_prompts(11, 0, 4, 10)]

    asyncio.run(work())


@pytest.mark.parametrize("strike", [die, stumble])
def test_a_failed_task_is_sent_again_under_the_same_ids(strike: Strike) -> None:
    async def work() -> None:
        run = rig(LocalWorker(strike))
        await run.begin()
        await run.train()
        assert run.kept == {iteration: marks(iteration) for iteration in range(3)}
        sent = run.workers[0].tasks
        assert len(sent) == 7
        assert sent[0].group_ids in [task.group_ids for task in sent[1:3]]
        assert (await run.coordinator.status())["resubmitted"] == 1
        assert (await run.coordinator.record(0)).resubmitted == 1  # type: ignore[union-attr]

    asyncio.run(work())


def test_a_task_that_always_fails_is_lost_and_the_rest_is_trained() -> None:
    async def work() -> None:
        run = rig(LocalWorker(stumble, stumble), LocalWorker(), iterations=1, max_attempts=1)
        await run.begin()
        await run.finish(await run.take(0))
        assert run.kept[0] == marks(0)[2:]
        ledger = await run.buffer.finish()
        assert ledger["lost"] == {"RuntimeError: out of memory": 2}
        assert (ledger["submitted"], ledger["trained"], ledger["open"]) == (4, 2, 0)

    asyncio.run(work())


def test_an_iteration_without_any_group_is_an_error_with_the_reason() -> None:
    async def work() -> None:
        run = rig(LocalWorker(stumble, stumble), max_attempts=1)
        await run.begin()
        with pytest.raises(ExperienceError, match=r"Not one group of iteration 0 survived.*out of memory': 4"):
            await run.take(0)

    asyncio.run(work())


def test_an_error_the_user_must_fix_is_not_repeated() -> None:
    async def misfit() -> None:
        raise RolloutError("Published weights do not fit the rollout model.")

    async def work() -> None:
        run = rig(LocalWorker(misfit))
        await run.begin()
        with pytest.raises(ExperienceError, match=r"Iteration 0 could not be sampled: Published weights do not fit"):
            await run.take(0)
        assert len(run.workers[0].tasks) <= 2
        assert "do not fit" in (await run.coordinator.status())["error"]

    asyncio.run(work())


def test_groups_with_missing_scores_are_dropped_and_counted() -> None:
    async def work() -> None:
        run = rig(iterations=2, rewards=FakeRewards(gaps=(("temporal", 2.0), ("spatial", 103.0))))
        await run.begin()
        await run.train()
        assert run.kept[0] == [0.0, 1.0, 3.0]
        assert run.kept[1] == marks(1)[:3]
        assert (await run.buffer.finish())["dropped"] == {"missing:temporal": 1, "missing:spatial": 1}
        assert (await run.coordinator.record(0)).missing["temporal"] == 1  # type: ignore[union-attr]

    asyncio.run(work())


def test_masked_groups_reach_the_learner_with_their_gaps() -> None:
    async def work() -> None:
        run = rig(rewards=FakeRewards(gaps=(("temporal", 2.0),)), missing="mask")
        await run.begin()
        batch = await run.take(0)
        rewards = batch.groups[2].rewards
        assert [name for name, values in rewards.items() if values[0] != values[0]] == ["temporal"]
        assert batch.select(batch.refs)[2].rewards["temporal"][1] == pytest.approx(2 / 10_000 + 0.01)

    asyncio.run(work())


def test_too_many_missing_scores_stop_the_run_before_the_iteration_is_trained() -> None:
    async def work() -> None:
        run = rig(rewards=FakeRewards(gaps=(("temporal", 2.0),)), max_missing_share=0.01)
        await run.begin()
        with pytest.raises(
            ExperienceError, match=r"6.2% of its temporal scores are missing .*max_missing_share = 0.01.*: gap"
        ):
            await run.take(0)

    asyncio.run(work())


@pytest.mark.parametrize("staleness", [1, 2])
def test_sampling_leads_by_at_most_the_allowed_staleness(staleness: int) -> None:
    async def work() -> None:
        run = rig(LocalWorker(), LocalWorker(), iterations=5, max_staleness=staleness)
        await run.begin()
        await settled(lambda: len(run.coordinator._records) == staleness + 1)
        assert (await run.buffer.status())["items"] == 4 * (staleness + 1)
        await run.train()
        lags = [record.staleness for record in await run.coordinator.records()]
        assert lags[: staleness + 1] == list(range(staleness + 1))
        assert max(lags) == staleness
        for iteration, kept in run.kept.items():
            assert [mark % 10_000 for mark in kept] == [mark % 10_000 for mark in marks(iteration)]
            assert all(iteration - staleness <= mark // 10_000 <= iteration for mark in kept)

    asyncio.run(work())


def test_a_full_buffer_holds_back_later_iterations_and_never_blocks_the_current_one() -> None:
    async def work() -> None:
        run = rig(LocalWorker(), LocalWorker(), iterations=5, max_staleness=3, buffer=BufferConfig(max_items=5))
        await run.begin()
        await settled(lambda: len(run.buffer._held) == 5)
        await run.train()
        assert (await run.buffer.status())["peak_items"] == 5
        assert (await run.buffer.finish())["trained"] == 20

    asyncio.run(work())


def test_an_iteration_larger_than_the_buffer_is_a_clear_error() -> None:
    async def work() -> None:
        run = rig(buffer=BufferConfig(max_bytes=3 * make_group(0, 0).nbytes))
        await run.begin()
        with pytest.raises(ExperienceError, match="alone fill the experience buffer"):
            await run.take(0)

    asyncio.run(work())


def test_a_learner_that_starts_over_gets_the_same_groups_and_the_books_balance() -> None:
    async def pause() -> None:
        await asyncio.sleep(0.05)

    async def work() -> None:
        run = rig(LocalWorker(*[pause] * 6), iterations=4)
        await run.begin()
        await run.finish(await run.take(0))
        await run.finish(await run.take(1))
        await asyncio.sleep(0.02)  # iteration 2 is in flight
        first = dict(run.kept)
        await run.coordinator.rewind(1)
        await run.train(first=1)
        assert run.kept[1] == first[1]
        ledger = await run.buffer.finish()
        assert (ledger["submitted"], ledger["accepted"], ledger["trained"], ledger["open"]) == (16, 16, 16, 0)
        assert [record.iteration for record in await run.coordinator.records()] == [0, 1, 2, 3]

    asyncio.run(work())


def test_a_rewind_forgives_a_failure() -> None:
    async def work() -> None:
        run = rig(LocalWorker(stumble, stumble), iterations=1, max_attempts=1)
        await run.begin()
        with pytest.raises(ExperienceError):
            await run.take(0)
        await run.coordinator.rewind(0)
        await run.train()
        assert run.kept[0] == marks(0)

    asyncio.run(work())


def test_stopping_ends_at_the_next_batch_and_the_books_balance() -> None:
    async def work() -> None:
        run = rig(iterations=9, max_staleness=1)
        await run.begin()
        await run.finish(await run.take(0))
        await run.coordinator.request_stop()
        assert (await run.take(1)).stop
        ledger = await run.buffer.finish()
        assert ledger["trained"] == 4
        assert ledger["submitted"] == 4 + ledger["dropped"]["stopped"]

    asyncio.run(work())


def test_groups_lost_with_their_machine_are_sampled_again() -> None:
    class Losing(ExperienceBuffer):
        """Finds the arrays of the first groups it is given gone."""

        async def add(self, iteration: int, infos: list, payload: list, epoch: int = 0) -> list:
            payload[0].lost = not self._held
            return await super().add(iteration, infos, payload, epoch)

    async def work() -> None:
        run = rig(iterations=1, prompts_per_task=4, max_attempts=2)
        run.buffer = Losing(BufferConfig(), put=lambda group: group)
        run.coordinator._buffer = Local(run.buffer)
        await run.begin()
        with pytest.raises(ExperienceError, match="the machine that held it is gone': 4"):
            await run.take(0)
        assert len(run.workers[0].tasks) == 2

    asyncio.run(work())


def test_advancing_twice_submits_once() -> None:
    async def work() -> None:
        run = rig(iterations=4)
        await run.begin()
        await run.finish(await run.take(0))
        await run.coordinator.advance(1)
        await run.coordinator.advance(0)
        await run.train(first=1)
        assert (await run.buffer.ledger())["submitted"] == 16

    asyncio.run(work())


def test_a_run_without_prompts_is_refused() -> None:
    with pytest.raises(CoordinatorError, match="no prompts"):
        Coordinator(rig().coordinator._plan, [], [], None, FakeRewards)
