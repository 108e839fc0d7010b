"""Actor handles without Ray: calls run in the test's own event loop, in the order in which they are made."""

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import numpy as np
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError

from actors.messages import GroupInfo, RolloutResult, RolloutTask
from tests.actors.fakes import FakeGenerator, checksum_of
from trainer.group import Group


class Call:
    """`handle.method`: remote() starts it and returns something to await."""

    def __init__(self, run: Callable[..., Any], returns: int = 1) -> None:
        self._run, self._returns = run, returns

    def options(self, num_returns: int) -> "Call":
        return Call(self._run, num_returns)

    def remote(self, *arguments: Any) -> Any:
        task = asyncio.ensure_future(self._run(*copy.deepcopy(arguments)))
        return task if self._returns == 1 else tuple(Ref(task, place) for place in range(self._returns))


class Ref:
    """Stands for an object: copying it copies the reference. `lost`: the machine that held the object is gone."""

    def __init__(self, task: Awaitable[Any], place: int) -> None:
        self._task, self._place = task, place
        self.lost = False

    def __deepcopy__(self, memo: dict) -> "Ref":
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    async def _get(self) -> Any:
        if self.lost:
            raise ObjectLostError("00", b"here", "")
        return (await self._task)[self._place]


def ref_to(value: Any) -> Ref:
    """A reference to a value, in an event loop."""

    async def get() -> tuple[Any]:
        return (value,)

    return Ref(asyncio.ensure_future(get()), 0)


class Local:
    """A handle to a plain object; what its methods raise arrives as it would from another process."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Call:
        method = getattr(self.target, name)

        async def run(*arguments: Any) -> Any:
            await asyncio.sleep(0)
            try:
                found = method(*arguments)
                return await found if inspect.isawaitable(found) else found
            except RayError:
                raise
            except Exception as error:
                raise RayTaskError(name, "a traceback", error, ip="here").as_instanceof_cause() from error

        return Call(run)


class LocalWorker:
    """A rollout actor whose weights are the task's version. `strikes`: run before the next calls of generate."""

    def __init__(self, *strikes: Callable[[], Awaitable[None]]) -> None:
        self.generator = FakeGenerator()
        self.strikes = list(strikes)
        self.pid = 1
        self.tasks: list[RolloutTask] = []

    async def generate(self, task: RolloutTask) -> tuple[RolloutResult, list[Group], np.ndarray]:
        self.tasks.append(task)
        if self.strikes:
            await self.strikes.pop(0)()
        self.generator.value = float(task.version)
        groups, waveforms = self.generator.generate(task, checksum_of(task.version))
        described = [GroupInfo.of(group) for group in groups]
        return RolloutResult(described, waveforms.shape[1], 16_000, 0.0, self.pid), groups, waveforms

    def ready(self) -> int:
        return self.pid


async def die() -> None:
    """The actor's process ends."""
    raise ActorDiedError


async def stumble() -> None:
    """Something that is not the user's to fix."""
    raise RuntimeError("out of memory")
