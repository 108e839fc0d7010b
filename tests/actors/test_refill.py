"""Flat groups: replaced by other prompts, the same ones whatever happens meanwhile, and counted once each."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from actors.buffer import ExperienceBuffer, ExperienceError
from actors.config import BufferConfig
from actors.schedule import prompts_of
from tests.actors.fakes import FakeRewards
from tests.actors.local import Local, LocalWorker, die, stumble
from tests.actors.rig import Rig, marks, rig, settled


async def well() -> None:
    """Nothing happens."""


async def trained(run: Rig) -> dict[str, Any]:
    """The final ledger of a run from its beginning to its end."""
    await run.begin()
    await run.train()
    return await run.buffer.finish()


def balanced(ledger: dict[str, Any]) -> bool:
    settled_as = sum(ledger["dropped"].values()) + sum(ledger["lost"].values())
    return ledger["submitted"] == ledger["trained"] + settled_as + ledger["open"]


def test_a_flat_group_is_replaced_by_one_of_another_prompt() -> None:
    async def work() -> None:
        run = rig(iterations=1, rewards=FakeRewards(flat=[1.0]))
        await run.begin()
        batch = await run.take(0)
        assert [info.index for info in batch.groups] == [0, 2, 3, 5]
        assert [info.id for info in batch.groups][-1] == "000000-0005"
        assert [info.clip_id for info in batch.groups] == [f"clip-{k}" for k in prompts_of(11, 0, [0, 2, 3, 5], 4, 10)]
        assert batch.dropped == {"flat": 1}
        await run.finish(batch)
        assert run.kept[0] == [0.0, 2.0, 3.0, 5.0]
        ledger = await run.buffer.finish()
        assert ledger == {"submitted": 5, "accepted": 4, "trained": 4, "open": 0, "dropped": {"flat": 1}, "lost": {}}
        await settled(lambda: bool(run.coordinator._records))
        (record,) = await run.coordinator.records()
        assert (record.groups, record.refilled, record.samples, record.nfe) == (4, 1, 20, 25)

    asyncio.run(work())


def test_a_slot_whose_replacements_are_flat_too_stays_empty() -> None:
    async def work() -> None:
        run = rig(iterations=2, rewards=FakeRewards(flat=[1.0, 5.0, 9.0, 102.0, 106.0]))
        ledger = await trained(run)
        assert run.kept == {0: [0.0, 2.0, 3.0], 1: [10_100.0, 10_101.0, 10_103.0, 10_110.0]}
        assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (12, 7, {"flat": 5})
        assert [record.refilled for record in await run.coordinator.records()] == [2, 2]

    asyncio.run(work())


def test_without_refills_flat_groups_are_kept() -> None:
    async def work() -> None:
        run = rig(iterations=1, rewards=FakeRewards(flat=[1.0]), algorithm={"refills": 0})
        ledger = await trained(run)
        assert run.kept[0] == marks(0)
        assert (ledger["submitted"], ledger["dropped"]) == (4, {})

    asyncio.run(work())


def test_an_iteration_is_not_handed_out_while_a_replacement_is_under_way() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        run = rig(LocalWorker(well, gate.wait), iterations=1, rewards=FakeRewards(flat=[1.0]), prompts_per_task=4)  # type: ignore[arg-type]
        await run.begin()
        await settled(lambda: len(run.buffer._held) == 3)
        with pytest.raises(TimeoutError):
            await run.buffer.take(0, 0, 1, timeout_s=0.05)
        assert (await run.buffer.ledger())["open"] == 4
        gate.set()
        assert [info.index for info in (await run.take(0)).groups] == [0, 2, 3, 5]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [
        ("drop", [0.0, 2.0, 3.0], {"missing:temporal": 1}),
        ("mask", [0.0, 2.0, 3.0, 5.0], {"flat": 1}),
    ],
)
def test_missing_scores_are_judged_before_flat_ones(policy: str, kept: list[float], dropped: dict[str, int]) -> None:
    async def work() -> None:
        rewards = FakeRewards(flat=[1.0], gaps=(("temporal", 1.0),))
        run = rig(iterations=1, rewards=rewards, missing=policy)
        ledger = await trained(run)
        assert run.kept[0] == kept
        assert ledger["dropped"] == dropped

    asyncio.run(work())


@pytest.mark.parametrize("limit", [0.05, 0.07])
def test_missing_scores_are_a_share_of_the_groups_the_iteration_ends_with(limit: float) -> None:
    """Of 4 groups x 4 members one score of a dimension is missing in the end; the replaced group's does not count."""

    async def work() -> None:
        rewards = FakeRewards(flat=[1.0], gaps=(("temporal", 1.0), ("temporal", 5.0)))
        run = rig(iterations=1, rewards=rewards, missing="mask", max_missing_share=limit)
        if limit < 1 / 16:
            await run.begin()
            with pytest.raises(ExperienceError, match=r"6\.2% of its temporal scores are missing"):
                await run.take(0)
        else:
            await trained(run)
            assert run.kept[0] == [0.0, 2.0, 3.0, 5.0]
            assert (await run.coordinator.records())[0].missing["temporal"] == 2

    asyncio.run(work())


@pytest.mark.parametrize(("attempts", "kept", "lost"), [(1, [0.0, 2.0, 3.0], 1), (2, [0.0, 2.0, 3.0, 5.0], 0)])
def test_a_replacement_is_sent_again_and_in_the_end_lost_like_any_group(
    attempts: int, kept: list[float], lost: int
) -> None:
    async def work() -> None:
        run = rig(
            LocalWorker(well, stumble),
            iterations=1,
            rewards=FakeRewards(flat=[1.0]),
            prompts_per_task=4,
            max_attempts=attempts,
        )
        ledger = await trained(run)
        assert run.kept[0] == kept
        assert sum(ledger["lost"].values()) == lost
        assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (5, 4 - lost, {"flat": 1})

    asyncio.run(work())


def test_a_rewind_during_a_refill_gives_the_same_groups_and_the_books_balance() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        rewards = FakeRewards(flat=[1.0, 101.0])
        run = rig(LocalWorker(well, well, well, gate.wait), iterations=2, rewards=rewards, prompts_per_task=4)  # type: ignore[arg-type]
        await run.begin()
        await run.finish(await run.take(0))
        await settled(lambda: [task.indices for task in run.workers[0].tasks][2:] == [(0, 1, 2, 3), (5,)])
        first = dict(run.kept)
        rewinding = asyncio.ensure_future(run.coordinator.rewind(0))
        await asyncio.sleep(0.01)
        gate.set()
        await rewinding
        await run.train()
        assert run.kept[0] == first[0]
        assert run.kept[1] == [10_100.0, 10_102.0, 10_103.0, 10_105.0]
        ledger = await run.buffer.finish()
        assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (10, 8, {"flat": 2})

    asyncio.run(work())


FLAT = [1.0, 3.0, 7.0, 100.0, 101.0, 103.0, 105.0, 109.0, 203.0]
KEPT = {
    0: [0.0, 2.0, 5.0, 11.0],
    1: [10_102.0, 10_104.0, 10_107.0],
    2: [20_200.0, 20_201.0, 20_202.0, 20_207.0],
}


@pytest.mark.parametrize(
    ("workers", "slow"),
    [(1, ()), (2, (0.0, 100.0, 5.0)), (2, (2.0, 102.0, 7.0)), (3, (4.0, 104.0, 200.0))],
)
@pytest.mark.parametrize("strikes", [(), (die,), (well, stumble, well, die)])
def test_the_batches_do_not_depend_on_order_workers_or_retries(
    workers: int, slow: Collection[float], strikes: tuple
) -> None:
    async def work() -> None:
        pool = [LocalWorker(*strikes), *(LocalWorker() for _ in range(workers - 1))]
        run = rig(*pool, rewards=FakeRewards(flat=FLAT, delays=dict.fromkeys(slow, 0.03)))
        await run.begin()
        clips = {}
        for iteration in range(3):
            batch = await run.take(iteration)
            clips[iteration] = [info.clip_id for info in batch.groups]
            await run.finish(batch)
        assert run.kept == KEPT
        assert clips == {
            iteration: [f"clip-{k}" for k in prompts_of(11, iteration, [int(mark) % 100 for mark in kept], 4, 10)]
            for iteration, kept in KEPT.items()
        }
        sent = {(t.iteration, t.indices, tuple(p.clip_id for p in t.prompts)) for w in run.workers for t in w.tasks}
        again = rig(rewards=FakeRewards(flat=FLAT))
        await trained(again)
        assert sent == {(t.iteration, t.indices, tuple(p.clip_id for p in t.prompts)) for t in again.workers[0].tasks}
        ledger = await run.buffer.finish()
        assert (ledger["submitted"], ledger["dropped"]) == (20, {"flat": 9})

    asyncio.run(work())


@pytest.mark.parametrize("staleness", [1, 3])
def test_bounds_of_staleness_and_buffer_hold_with_replacements(staleness: int) -> None:
    async def work() -> None:
        flat = [100.0 * iteration + index for iteration in range(6) for index in (0, 3, 7)]
        run = rig(
            LocalWorker(),
            LocalWorker(),
            iterations=6,
            rewards=FakeRewards(flat=flat),
            buffer=BufferConfig(max_items=5),
            max_staleness=staleness,
        )
        ledger = await trained(run)
        assert [[int(mark) % 100 for mark in kept] for kept in run.kept.values()] == [[1, 2, 4, 11]] * 6
        assert (await run.buffer.status())["peak_items"] <= 5
        assert max(record.staleness for record in await run.coordinator.records()) <= staleness
        assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (42, 24, {"flat": 18})

    asyncio.run(work())


def test_a_replacement_does_not_queue_behind_the_next_iteration() -> None:
    async def work() -> None:
        run = rig(iterations=2, rewards=FakeRewards(flat=[0.0]), max_staleness=1)
        await trained(run)
        sent = [(task.iteration, *task.indices) for task in run.workers[0].tasks]
        assert sent.index((0, 4)) < sent.index((1, 2, 3))
        assert sorted(sent) == [(0, 0, 1), (0, 2, 3), (0, 4), (1, 0, 1), (1, 2, 3)]

    asyncio.run(work())


def test_groups_lost_with_their_machine_do_not_get_a_second_replacement() -> None:
    class Losing(ExperienceBuffer):
        """Finds the arrays of the first groups it is given gone."""

        calls = 0

        async def add(self, iteration: int, infos: list, payload: list, epoch: int = 0) -> list:
            self.calls += 1
            payload[0].lost = self.calls == 1
            return await super().add(iteration, infos, payload, epoch)

    async def work() -> None:
        run = rig(iterations=1, rewards=FakeRewards(flat=[1.0]), prompts_per_task=4)
        run.buffer = Losing(BufferConfig(), put=lambda group: group)
        run.coordinator._buffer = Local(run.buffer)
        ledger = await trained(run)
        assert run.kept[0] == [0.0, 2.0, 3.0, 5.0]
        assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (5, 4, {"flat": 1})
        assert sorted(task.indices for task in run.workers[0].tasks)[:2] == [(0, 1, 2, 3)] * 2
        assert (await run.coordinator.records())[0].refilled == 1

    asyncio.run(work())


def test_a_small_pool_gives_the_same_prompts_another_chance() -> None:
    async def work() -> None:
        run = rig(iterations=1, rewards=FakeRewards(flat=[1.0, 5.0]), pool=4)
        await run.begin()
        batch = await run.take(0)
        assert [info.index for info in batch.groups] == [0, 2, 3, 9]

    asyncio.run(work())


def test_when_every_group_stays_flat_the_learner_is_told_what_to_do() -> None:
    async def work() -> None:
        everything = [100.0 + index for index in range(12)]
        run = rig(rewards=FakeRewards(flat=everything), iterations=3)
        await run.begin()
        await run.finish(await run.take(0))
        with pytest.raises(ExperienceError) as caught:
            await run.take(1)
        told = str(caught.value)
        assert told.startswith("Iteration 1 has nothing to learn from.")
        assert "gave 12 groups" in told
        assert "algorithm.reward_floor = 0.001" in told
        assert "semantic 0.500 (0)" in told
        assert "resume it with learner.iterations=1 " in told
        ledger = await run.buffer.finish()
        assert (ledger["submitted"], ledger["trained"], ledger["dropped"]) == (16, 4, {"flat": 12})

    asyncio.run(work())


def test_flat_groups_beside_lost_ones_are_not_called_converged() -> None:
    async def work() -> None:
        run = rig(
            LocalWorker(stumble),
            iterations=1,
            rewards=FakeRewards(flat=[float(index) for index in range(12)]),
            max_attempts=1,
        )
        await run.begin()
        with pytest.raises(ExperienceError, match=r"Not one group of iteration 0 survived: dropped {'flat': 6}, lost"):
            await run.take(0)

    asyncio.run(work())


def test_a_rewind_forgets_that_everything_was_flat() -> None:
    async def work() -> None:
        rewards = FakeRewards(flat=[float(index) for index in range(12)])
        run = rig(iterations=1, rewards=rewards)
        await run.begin()
        with pytest.raises(ExperienceError, match="nothing to learn from"):
            await run.take(0)
        rewards.flat = [0.0]
        await run.coordinator.rewind(0)
        await run.train()
        assert run.kept[0] == [1.0, 2.0, 3.0, 4.0]
        assert balanced(await run.buffer.finish())

    asyncio.run(work())


def test_only_rewards_with_a_weight_decide() -> None:
    class Halved(FakeRewards):
        """Only the temporal scores differ between members."""

        async def score_all(self, *arguments: Any, **named: Any) -> dict:
            found = await super().score_all(*arguments, **named)
            return {
                name: scored if name == "temporal" else replace(scored, values=scored.values * 0 + 0.5)
                for name, scored in found.items()
            }

    async def work() -> None:
        run = rig(iterations=1, rewards=Halved())
        await trained(run)
        assert run.kept[0] == marks(0)
        run = rig(iterations=1, rewards=Halved(), weights={"semantic": 1.0, "temporal": 0.0})
        await run.begin()
        with pytest.raises(ExperienceError, match=r"in a group: semantic 0\.500 \(0\)\. If"):
            await run.take(0)

    asyncio.run(work())
