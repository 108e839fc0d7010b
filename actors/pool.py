"""The pool of rollout actors: gives each task to an idle one, and brings back those that died or hang."""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.config import RolloutConfig
from actors.messages import RolloutResult, RolloutTask
from settings import PrismError

_PING_EVERY_S = 0.2


class PoolError(PrismError):
    """No rollout actor can be reached any more."""


class TaskLostError(Exception):
    """A task failed on every attempt; the message is the last reason."""


@dataclass(frozen=True)
class Produced:
    """A finished task. groups, waveforms: object refs, owned by this process. attempts: sends it took."""

    result: RolloutResult
    groups: Any
    waveforms: Any
    attempts: int


class WorkerPool:
    """Idle rollout actors in the order in which they became idle. Lives inside one asyncio loop.

    A task of an earlier iteration goes first: the learner waits for it, be it sent again or a replacement.
    workers: handles of actors with `generate` and `ready` (`actors.rollout.RolloutWorker`), restartable without task
    retries. `resubmitted` and `restarts` count what went wrong.
    """

    def __init__(self, workers: list[Any], config: RolloutConfig) -> None:
        self._config = config
        self._workers = workers
        self._idle: deque[Any] = deque()
        self._waiting: list[tuple[int, int, asyncio.Future[Any]]] = []
        self._arrivals = count()
        self._pids: list[int] = []
        self._gone = 0
        self._recoveries: set[asyncio.Task] = set()
        self.in_flight = 0
        self.restarts = 0
        self.resubmitted = 0

    async def start(self) -> None:
        """Wait until every actor has built its model; raises PoolError with the reason when one cannot."""
        try:
            async with asyncio.timeout(self._config.start_deadline_s):
                self._pids = await asyncio.gather(*(_value(worker.ready.remote()) for worker in self._workers))
        except TimeoutError:
            raise PoolError(
                f"Rollout actors were not ready after {self._config.start_deadline_s:g} s; check that the cluster has "
                f"{len(self._workers)} x {self._config.num_cpus:g} CPUs and {self._config.num_gpus:g} GPUs free."
            ) from None
        except RayError as error:
            raise PoolError(f"A rollout actor could not start: {cause(error)}") from error
        for worker in self._workers:
            self._release(worker)

    async def run(self, task: RolloutTask, version: Callable[[], int]) -> Produced:
        """Have a task done.

        version: the newest weights, asked for at each attempt. Raises TaskLostError after max_attempts failures,
        PoolError when every actor is gone for good, and at once any PrismError of an actor: repeating would not help.
        """
        reason = ""
        for attempt in range(self._config.max_attempts):
            worker = await self._take_idle(task.iteration)
            self.resubmitted += attempt > 0
            self.in_flight += 1
            try:
                result_ref, groups, waveforms = worker.generate.options(num_returns=3).remote(
                    replace(task, version=version())
                )
                result = await asyncio.wait_for(_value(result_ref), self._config.deadline_s)
            except TimeoutError:
                reason = f"no answer within {self._config.deadline_s:g} s"
                self._background(self._recover(worker, hung=True))
            except RayTaskError as error:
                self._release(worker)
                if isinstance(error.cause, PrismError):
                    raise error.cause from error
                reason = cause(error)
            except RayError as error:
                reason = type(error).__name__
                self._background(self._recover(worker))
            except asyncio.CancelledError:
                self._background(self._recover(worker))
                raise
            else:
                self._release(worker)
                return Produced(result, groups, waveforms, attempt + 1)
            finally:
                self.in_flight -= 1
        raise TaskLostError(reason)

    async def _take_idle(self, iteration: int) -> Any:
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (iteration, next(self._arrivals), turn))
        self._assign()
        try:
            worker = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(turn.result())
            raise
        if worker is None:
            raise PoolError(
                f"None of the {len(self._workers)} rollout actors came back within "
                f"{self._config.start_deadline_s:g} s; see the worker logs of the Ray session."
            )
        return worker

    def _release(self, worker: Any) -> None:
        self._idle.append(worker)
        self._assign()

    def _assign(self) -> None:
        """Give idle actors to those who wait; None when there will be no more."""
        none_left = self._gone == len(self._workers)
        while self._waiting and (self._idle or none_left):
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None if none_left else self._idle.popleft())

    async def _recover(self, worker: Any, hung: bool = False) -> None:
        """Return an actor to the idle queue once it answers; restart it first when it hangs."""
        give_up = time.monotonic() + self._config.start_deadline_s
        pid = None
        if hung:
            ray.kill(worker, no_restart=False)
        while pid is None and (left := give_up - time.monotonic()) > 0:
            try:
                pid = await asyncio.wait_for(_value(worker.ready.remote()), left)
            except RayError:
                await asyncio.sleep(_PING_EVERY_S)
            except TimeoutError:
                ray.kill(worker, no_restart=False)
        if pid is not None:
            place = self._workers.index(worker)
            self.restarts += pid != self._pids[place]
            self._pids[place] = pid
            self._release(worker)
            return
        self._gone += 1
        self._assign()

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)


async def _value(ref: Any) -> Any:
    return await ref


def cause(error: RayError) -> str:
    """The line of a Ray error that says what went wrong on the other side."""
    inner = getattr(error, "cause", None)
    return f"{type(inner).__name__}: {inner}" if inner is not None else str(error).strip().splitlines()[-1]
