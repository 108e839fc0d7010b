import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.buffer import ExperienceBuffer, ExperienceError
from actors.config import BufferConfig
from actors.messages import Admission, GroupInfo
from tests.actors.fakes import make_group
from tests.actors.local import ref_to
from trainer.group import Group

BATCH = 4


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def buffer_with(clock: Clock | None = None, **limits: Any) -> ExperienceBuffer:
    """A buffer whose object store is the identity."""
    return ExperienceBuffer(BufferConfig(**limits), clock=clock or Clock(), put=lambda group: group)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def add(buffer: ExperienceBuffer, groups: list[Group], epoch: int = 0) -> list[Admission]:
    return await buffer.add(groups[0].iteration, [GroupInfo.of(group) for group in groups], [ref_to(groups)], epoch)


async def fill(buffer: ExperienceBuffer, iteration: int, indices: range = range(BATCH)) -> list[str]:
    await buffer.expect(iteration, BATCH)
    answers = await add(buffer, [make_group(iteration, index) for index in indices])
    return [answer.reason for answer in answers]


def test_a_batch_is_complete_ordered_and_trained_once() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await buffer.expect(0, BATCH)
        await add(buffer, [make_group(0, index) for index in (2, 0)])
        await add(buffer, [make_group(0, index) for index in (3, 1)])
        batch = await buffer.take(0, rank=0, world=1, timeout_s=1)
        assert [group.index for group in batch.select(batch.refs)] == [0, 1, 2, 3]
        assert [info.id for info in batch.groups] == ["000000-0000", "000000-0001", "000000-0002", "000000-0003"]
        assert await buffer.ack(batch.lease)
        assert not await buffer.ack(batch.lease)
        assert (await buffer.ledger())["trained"] == BATCH
        assert (await buffer.status())["bytes"] == 0
        with pytest.raises(ExperienceError, match="trained already"):
            await buffer.take(0, rank=0, world=1, timeout_s=1)

    run(work())


def test_ranks_share_a_lease_and_split_the_groups() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0)
        first, second = [await buffer.take(0, rank, 2, timeout_s=1) for rank in (0, 1)]
        assert first.lease == second.lease
        assert [g.index for g in first.select(first.refs)] == [0, 2]
        assert [g.index for g in second.select(second.refs)] == [1, 3]
        assert [i.id for i in first.groups] == [i.id for i in second.groups]

    run(work())


def test_taking_waits_for_the_last_group_whatever_becomes_of_it() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0, range(2))
        taking = asyncio.ensure_future(buffer.take(0, 0, 1, timeout_s=5))
        await asyncio.sleep(0)
        await buffer.drop(0, [2], "missing:spatial")
        assert not taking.done()
        await buffer.lose(0, [3], "worker died")
        batch = await taking
        assert [g.index for g in batch.select(batch.refs)] == [0, 1]
        assert batch.dropped == {"missing:spatial": 1}
        assert batch.lost == {"worker died": 1}

    run(work())


def test_a_replaced_group_is_waited_for_like_any_other() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0, range(3))
        assert await buffer.replace(0, {1: 5, 3: 7}, "flat") == [3]
        assert await buffer.replace(0, {3: 7}, "flat") == []
        with pytest.raises(TimeoutError):
            await buffer.take(0, 0, 1, timeout_s=0.01)
        assert [a.reason for a in await add(buffer, [make_group(0, 3)])] == ["settled"]
        assert [a.accepted for a in await add(buffer, [make_group(0, 7)])] == [True]
        batch = await buffer.take(0, 0, 1, timeout_s=1)
        assert [g.index for g in batch.select(batch.refs)] == [0, 1, 2, 7]
        assert batch.dropped == {"flat": 1}
        await buffer.ack(batch.lease)
        assert (await buffer.ledger())["submitted"] == BATCH + 1

    run(work())


def test_nothing_is_replaced_after_a_rewind() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0, range(2))
        epoch = await buffer.rewind(0)
        await buffer.expect(0, BATCH, epoch)
        assert await buffer.replace(0, {3: 7}, "flat", epoch - 1) == []
        assert (await buffer.ledger())["submitted"] == BATCH

    run(work())


def test_an_accepted_group_is_not_dropped_by_late_news() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0)
        await buffer.drop(0, [2], "missing:temporal")
        batch = await buffer.take(0, 0, 1, timeout_s=1)
        assert len(batch.groups) == BATCH
        assert await buffer.ack(batch.lease)
        assert (await buffer.ledger())["trained"] == BATCH

    run(work())


def test_the_note_of_an_iteration_without_groups_is_its_error_until_a_rewind() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await buffer.expect(0, BATCH)
        await buffer.drop(0, [0, 1], "flat", note="everything is flat")
        await buffer.drop(0, [2, 3], "flat")
        with pytest.raises(ExperienceError, match=r"^everything is flat$"):
            await buffer.take(0, 0, 1, timeout_s=1)
        epoch = await buffer.rewind(0)
        await buffer.drop(0, [0], "flat", epoch - 1, "an old note")
        await buffer.expect(0, BATCH, epoch)
        await buffer.drop(0, list(range(BATCH)), "missing:temporal", epoch)
        with pytest.raises(ExperienceError, match="Not one group of iteration 0 survived"):
            await buffer.take(0, 0, 1, timeout_s=1)

    run(work())


def test_taking_times_out() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0, range(2))
        with pytest.raises(TimeoutError):
            await buffer.take(0, 0, 1, timeout_s=0.01)
        await add(buffer, [make_group(0, 2), make_group(0, 3)])
        assert len((await buffer.take(0, 0, 1, timeout_s=1)).groups) == BATCH

    run(work())


def test_adding_twice_counts_once() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0)
        assert await fill(buffer, 0) == ["duplicate"] * BATCH
        batch = await buffer.take(0, 0, 1, timeout_s=1)
        await buffer.ack(batch.lease)
        assert await fill(buffer, 0) == ["duplicate"] * BATCH
        totals = await buffer.ledger()
        assert (totals["submitted"], totals["accepted"], totals["trained"]) == (BATCH, BATCH, BATCH)
        assert (await buffer.status())["items"] == 0

    run(work())


def test_what_nobody_announced_or_what_was_given_up_is_refused() -> None:
    async def work() -> None:
        buffer = buffer_with()
        assert [a.reason for a in await add(buffer, [make_group(7, 0)])] == ["unexpected"]
        await buffer.expect(0, BATCH)
        await buffer.lose(0, [1], "worker died")
        assert [a.reason for a in await add(buffer, [make_group(0, 1)])] == ["settled"]

    run(work())


def test_groups_whose_arrays_are_gone_may_come_again() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await buffer.expect(0, BATCH)
        groups = [make_group(0, index) for index in range(BATCH)]
        ref = ref_to(groups)
        ref.lost = True
        assert {a.reason for a in await buffer.add(0, [GroupInfo.of(g) for g in groups], [ref])} == {"gone"}
        assert await fill(buffer, 0) == [""] * BATCH

    run(work())


def test_small_groups_share_an_object_and_large_ones_do_not() -> None:
    async def work() -> None:
        size = make_group(0, 0).nbytes
        for limit, lengths in ((1, [1, 1, 1, 1]), (2 * size, [2, 2]), (100 * size, [4])):
            buffer = buffer_with(pack_bytes=limit)
            await fill(buffer, 0)
            batch = await buffer.take(0, 0, 1, timeout_s=1)
            assert [len(pack) for pack in batch.refs] == lengths
            assert [g.index for g in batch.select(batch.refs)] == [0, 1, 2, 3]

    run(work())


def test_rewards_come_with_the_description() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await buffer.expect(0, 1)
        bare = replace(make_group(0, 0), rewards={})
        rewards = {"temporal": np.array([0.5])}
        await buffer.add(0, [replace(GroupInfo.of(bare), rewards=rewards)], [ref_to([bare])])
        batch = await buffer.take(0, 0, 1, timeout_s=1)
        assert batch.select(batch.refs)[0].rewards == batch.groups[0].rewards == rewards

    run(work())


@pytest.mark.parametrize("limits", [{"max_items": 3}, {"max_bytes": 3 * make_group(0, 0).nbytes}])
def test_bounds_in_items_and_bytes(limits: dict) -> None:
    async def work() -> None:
        buffer = buffer_with(**limits)
        assert await fill(buffer, 0) == ["", "", "", "full"]
        status = await buffer.status()
        assert status["items"] == status["peak_items"] == 3
        assert status["bytes"] == status["peak_bytes"] == 3 * make_group(0, 0).nbytes
        await buffer.drop(0, [3], "no room")
        await buffer.ack((await buffer.take(0, 0, 1, timeout_s=1)).lease)
        assert (await fill(buffer, 1, range(1))) == [""]

    run(work())


def test_an_expired_lease_is_handed_out_anew_and_its_old_holder_is_refused() -> None:
    async def work() -> None:
        clock = Clock()
        buffer = buffer_with(clock, lease_s=10)
        await fill(buffer, 0)
        old = await buffer.take(0, 0, 1, timeout_s=1)
        clock.now = 11
        assert (await buffer.status())["expired_leases"] == 1
        new = await buffer.take(0, 0, 1, timeout_s=1)
        assert new.lease != old.lease
        assert [g.index for g in new.select(new.refs)] == [g.index for g in old.select(old.refs)]
        assert not await buffer.ack(old.lease)
        assert await buffer.ack(new.lease)
        assert (await buffer.ledger())["trained"] == BATCH

    run(work())


def test_a_late_acknowledgement_counts_while_nobody_else_has_the_batch() -> None:
    async def work() -> None:
        clock = Clock()
        buffer = buffer_with(clock, lease_s=10)
        await fill(buffer, 0)
        batch = await buffer.take(0, 0, 1, timeout_s=1)
        clock.now = 11
        assert await buffer.ack(batch.lease)

    run(work())


def test_a_live_lease_is_neither_given_to_another_world_nor_passed_over() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0)
        await fill(buffer, 1)
        first = await buffer.take(0, 0, 1, timeout_s=1)
        assert (await buffer.take(0, 0, 1, timeout_s=1)).lease == first.lease
        with pytest.raises(ExperienceError, match="leased to a world of 1"):
            await buffer.take(0, 0, 2, timeout_s=1)
        with pytest.raises(ExperienceError, match="acknowledge that lease"):
            await buffer.take(1, 0, 1, timeout_s=1)

    run(work())


def test_rewinding_forgets_and_refuses_what_was_sent_before() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0)
        await buffer.ack((await buffer.take(0, 0, 1, timeout_s=1)).lease)
        await fill(buffer, 1)
        lease = (await buffer.take(1, 0, 1, timeout_s=1)).lease
        epoch = await buffer.rewind(1)
        assert not await buffer.ack(lease)
        assert (await buffer.ledger())["submitted"] == BATCH
        assert (await buffer.status())["items"] == 0
        await buffer.expect(1, BATCH)
        assert not (await buffer.status())["items"]
        assert [a.reason for a in await add(buffer, [make_group(1, 0)])] == ["stale"]
        await buffer.expect(1, BATCH, epoch)
        await buffer.drop(1, [0], "from before", epoch - 1)
        assert [a.accepted for a in await add(buffer, [make_group(1, k) for k in range(BATCH)], epoch)] == [
            True
        ] * BATCH
        await buffer.ack((await buffer.take(1, 0, 1, timeout_s=1)).lease)
        totals = await buffer.ledger()
        assert (totals["submitted"], totals["trained"], totals["open"]) == (2 * BATCH, 2 * BATCH, 0)

    run(work())


def test_a_stop_reaches_every_rank_at_the_same_iteration() -> None:
    async def work() -> None:
        buffer = buffer_with()
        await fill(buffer, 0)
        await fill(buffer, 1)
        assert not (await buffer.take(0, 0, 2, timeout_s=1)).stop
        await buffer.request_stop()
        second = await buffer.take(0, 1, 2, timeout_s=1)
        assert not second.stop
        assert await buffer.ack(second.lease)
        for rank in (0, 1):
            assert (await buffer.take(1, rank, 2, timeout_s=1)).stop
        final = await buffer.finish()
        assert final["trained"] == BATCH
        assert final["dropped"] == {"stopped": BATCH}
        assert final["open"] == 0

    run(work())


def test_a_failure_wakes_the_learner_with_its_reason_until_a_rewind() -> None:
    async def work() -> None:
        buffer = buffer_with()
        taking = asyncio.ensure_future(buffer.take(0, 0, 1, timeout_s=5))
        await asyncio.sleep(0)
        await buffer.fail("the reward service is gone")
        with pytest.raises(ExperienceError, match="reward service is gone"):
            await taking
        epoch = await buffer.rewind(0)
        await buffer.expect(0, 1, epoch)
        await add(buffer, [make_group(0, 0)], epoch)
        assert len((await buffer.take(0, 0, 1, timeout_s=1)).groups) == 1

    run(work())


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["add", "drop", "lose", "replace", "cycle", "take", "rewind", "late"]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=50,
)


@given(CALLS, st.integers(2, 6))
def test_the_books_and_bounds_hold_after_any_calls(calls: list[tuple[str, int, int]], max_items: int) -> None:
    async def work() -> None:
        clock = Clock()
        buffer = buffer_with(clock, max_items=max_items, lease_s=10)
        epoch, trained = 0, set()
        for name, iteration, index in calls:
            await buffer.expect(iteration, BATCH, epoch)
            if name == "add":
                await add(buffer, [make_group(iteration, index)], epoch)
            elif name == "drop":
                await buffer.drop(iteration, [index], "dropped", epoch)
            elif name == "lose":
                await buffer.lose(iteration, [index], "lost", epoch)
            elif name == "replace":
                made = [index + BATCH for index in await buffer.replace(iteration, {index: index + BATCH}, "", epoch)]
                await add(buffer, [make_group(iteration, other) for other in made] or [make_group(iteration, 0)], epoch)
            elif name == "late":
                clock.now += 6
            elif name == "rewind":
                epoch = await buffer.rewind(iteration)
                trained = {key for key in trained if key[0] < iteration}
            else:
                try:
                    batch = await buffer.take(iteration, 0, 1, timeout_s=0.001)
                except (TimeoutError, ExperienceError):
                    continue
                if name == "cycle" and await buffer.ack(batch.lease):
                    keys = {(iteration, info.index) for info in batch.groups}
                    assert not keys & trained
                    trained |= keys
            status, totals = await buffer.status(), await buffer.ledger()
            assert status["items"] <= max_items
            assert status["bytes"] == status["items"] * make_group(0, 0).nbytes
            assert totals["trained"] == len(trained)
            settled = sum(totals["dropped"].values()) + sum(totals["lost"].values())
            assert totals["submitted"] == totals["trained"] + settled + totals["open"]

    run(work())
