"""A pool of actors that make soundtracks, one model each: work is pulled, the work of a dead one is done elsewhere."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from actors.pool import PoolError, cause
from actors.soundtrack_config import SoundtrackConfig
from settings import PrismError

_PAUSE_S = 0.2


class Maker(Protocol):
    """What an actor runs: a loaded model and all that goes with it."""

    def make(self, job: Any, /) -> Any:
        """Do one job; a PrismError says that repeating it would not help."""
        ...


class SoundtrackWorker:
    """Plain class; start it with `ray.remote(max_restarts=-1, max_task_retries=0)`. The model is loaded by `load`."""

    def __init__(self, build: Callable[[], Maker]) -> None:
        self._build = build
        self._maker: Maker | None = None

    def load(self) -> int:
        """Load the model unless it is there; returns the process id. Also called after a restart."""
        if self._maker is None:
            self._maker = self._build()
        return os.getpid()

    def make(self, job: Any) -> Any:
        """The maker's result."""
        self.load()
        assert self._maker is not None
        return self._maker.make(job)


@dataclass(frozen=True)
class Outcome:
    """One finished job: its place among the jobs, and its result or what went wrong. attempts: sends it took."""

    place: int
    result: Any = None
    error: Exception | None = None
    attempts: int = 1


@dataclass
class _Running:
    worker: Any
    place: int | None  # of the job; None while the worker loads its model
    give_up: float


class SoundtrackPool:
    """Actors on a Ray that is already there; a context manager that ends them.

    build: makes a Maker inside an actor. `restarts` counts jobs whose actor died or hung.
    """

    def __init__(self, build: Callable[[], Maker], config: SoundtrackConfig) -> None:
        self._config, self._build = config, build
        self._workers: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._idle: deque[Any] = deque()
        self.restarts = 0

    def __enter__(self) -> "SoundtrackPool":
        options = {"num_cpus": self._config.num_cpus, "num_gpus": self._config.num_gpus}
        kind = ray.remote(SoundtrackWorker).options(max_restarts=-1, max_task_retries=0, **options)
        self._workers = [kind.remote(self._build) for _ in range(self._config.workers)]
        for worker in self._workers:
            self._load(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            ray.kill(worker)

    def run(self, jobs: Sequence[Any], minutes: Sequence[float]) -> Iterator[Outcome]:
        """Outcomes as they come. minutes: of picture in each job, for its deadline.

        Raises PoolError when no actor can be had, and the PrismError of a model that cannot be loaded.
        """
        waiting, sends, left = deque(range(len(jobs))), [0] * len(jobs), len(jobs)
        while left:
            while waiting and self._idle:
                place, worker = waiting.popleft(), self._idle.popleft()
                sends[place] += 1
                limit = self._config.deadline_s * (1 + minutes[place])
                self._running[worker.make.remote(jobs[place])] = _Running(worker, place, time.monotonic() + limit)
            for found in self._settle():
                place = found.place
                if (
                    found.error is None
                    or isinstance(found.error, PrismError)
                    or sends[place] >= self._config.max_attempts
                ):
                    left -= 1
                    yield Outcome(place, found.result, found.error, sends[place])
                else:
                    waiting.append(place)

    def _settle(self) -> list[Outcome]:
        """Wait for the next thing to happen; the jobs that ended, for good or bad."""
        if not self._running:
            raise PoolError(
                f"None of the {len(self._workers)} soundtrack actors could load its model within "
                f"{self._config.start_deadline_s:g} s; see the worker logs of the Ray session."
            )
        until = min(entry.give_up for entry in self._running.values())
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=max(0.0, until - time.monotonic()))
        found = [self._ended(ref) for ref in done]
        late = [ref for ref, entry in self._running.items() if entry.give_up <= time.monotonic()]
        return [outcome for outcome in [*found, *(self._expired(ref) for ref in late)] if outcome is not None]

    def _ended(self, ref: Any) -> Outcome | None:
        entry = self._running.pop(ref)
        try:
            result = ray.get(ref, timeout=self._config.deadline_s)
        except RayTaskError as error:
            # The actor itself is well.
            inner = error.cause if isinstance(error.cause, PrismError) else PoolError(cause(error))
            if entry.place is None:
                raise inner from error
            self._idle.append(entry.worker)
            return Outcome(entry.place, error=inner if inner is error.cause else RuntimeError(cause(error)))
        except RayError as error:
            if entry.place is None:
                time.sleep(_PAUSE_S)  # it is being restarted, or dies at every start until its time is over
                self._load(entry.worker, entry.give_up)
                return None
            self.restarts += 1
            self._load(entry.worker)
            return Outcome(entry.place, error=RuntimeError(f"its actor died ({type(error).__name__})"))
        self._idle.append(entry.worker)
        return None if entry.place is None else Outcome(entry.place, result)

    def _expired(self, ref: Any) -> Outcome | None:
        entry = self._running.pop(ref)
        if entry.place is None:  # it never comes up: go on without it
            ray.kill(entry.worker)
            return None
        self.restarts += 1
        ray.kill(entry.worker, no_restart=False)
        self._load(entry.worker)
        return Outcome(entry.place, error=RuntimeError("no answer within its deadline"))

    def _load(self, worker: Any, give_up: float | None = None) -> None:
        until = give_up or time.monotonic() + self._config.start_deadline_s
        self._running[worker.load.remote()] = _Running(worker, None, until)
