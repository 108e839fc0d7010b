"""Which task gets the next idle rollout actor, and what becomes of actors whose tasks were given up."""

import asyncio

import pytest

from actors.config import RolloutConfig
from actors.messages import RolloutTask
from actors.pool import PoolError, WorkerPool
from tests.actors.fakes import make_prompts
from tests.actors.local import Local, LocalWorker, die
from trainer.group import Window


def task(iteration: int, index: int) -> RolloutTask:
    return RolloutTask(iteration, 0, Window(0, 1), (index,), tuple(make_prompts(1)), seed=0)


def pool_of(*workers: LocalWorker, start_deadline_s: float = 5.0) -> WorkerPool:
    return WorkerPool([Local(worker) for worker in workers], RolloutConfig(start_deadline_s=start_deadline_s))


def version() -> int:
    return 0


def test_an_earlier_iteration_goes_first_whenever_it_comes() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async def work() -> None:
        worker = LocalWorker(wait)
        pool = pool_of(worker)
        await pool.start()
        later = [asyncio.ensure_future(pool.run(task(1, index), version)) for index in range(3)]
        await asyncio.sleep(0.01)
        earlier = [asyncio.ensure_future(pool.run(task(0, index), version)) for index in (5, 6)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*later, *earlier)
        assert [(t.iteration, *t.indices) for t in worker.tasks] == [(1, 0), (0, 5), (0, 6), (1, 1), (1, 2)]

    asyncio.run(work())


@pytest.mark.parametrize("assigned", [False, True])
def test_a_task_given_up_while_it_waits_keeps_no_actor(assigned: bool) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async def work() -> None:
        pool = pool_of(LocalWorker(wait))
        await pool.start()
        first = asyncio.ensure_future(pool.run(task(0, 0), version))
        waiting = asyncio.ensure_future(pool.run(task(0, 1), version))
        await asyncio.sleep(0.01)
        if assigned:
            # Released and given to the second task, which is given up before it sees it.
            pool._release(pool._workers[0])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(pool._idle) == assigned
        gate.set()
        await first
        await asyncio.wait_for(pool.run(task(0, 2), version), 5)

    asyncio.run(work())


def test_every_waiting_task_learns_that_no_actor_is_left() -> None:
    class Gone(LocalWorker):
        """Answers once, then never again."""

        def ready(self) -> int:
            if self.tasks:
                raise ConnectionError
            return self.pid

    async def work() -> None:
        pool = pool_of(Gone(die), start_deadline_s=0.3)
        await pool.start()
        tasks = [asyncio.ensure_future(pool.run(task(iteration, 0), version)) for iteration in (0, 1, 2)]
        for running in tasks:
            with pytest.raises(PoolError, match="None of the 1 rollout actors came back"):
                await running

    asyncio.run(work())
