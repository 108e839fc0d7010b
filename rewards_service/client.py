"""Calling the reward replicas: all dimensions at once, a deadline per call, one retry elsewhere, no made-up numbers."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util.metrics import Counter, Gauge, Histogram

from rewards_service.errors import RewardError
from rewards_service.pool import Pool, Replica
from rewards_service.scores import Reference, Scores
from rewards_service.verdict import all_missing, checked

LATENCY_BOUNDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
RESTART_POLL_S = 0.2


class RewardClient:
    """Scores batches with every dimension's replicas in parallel. Lives in the coordinator or in a driver."""

    def __init__(
        self,
        replicas: Mapping[str, Sequence[Any]],
        deadline_s: float = 30.0,
        patience: int = 3,
        rest_s: float = 2.0,
    ) -> None:
        """`replicas`: per dimension, handles with a `score` method. Raises RewardError for a dimension without any."""
        empty = [dimension for dimension, handles in replicas.items() if not handles]
        if empty or not replicas:
            raise RewardError(f"No replicas for {', '.join(empty) or 'any dimension'}; deploy at least one each.")
        self._pools = {d: Pool.of(handles, patience=patience, rest_s=rest_s) for d, handles in replicas.items()}
        self._deadline_s = deadline_s
        tags = ("dimension",)
        self._latency = Histogram("prism_reward_latency_seconds", "Time of a reward call", LATENCY_BOUNDS, tags)
        self._failures = Counter("prism_reward_failures_total", "Reward calls that failed", tags)
        self._mean = Gauge("prism_reward", "Mean reward of the last batch", tags)

    async def score_all(
        self,
        waveforms: Any,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        members: int | None = None,
    ) -> dict[str, Scores]:
        """Scores of (G, N, 2, S) waveforms (array or object reference) per dimension; never raises for a failed reward.

        A dimension that does not answer properly within its deadline, nor on a second try, is returned as missing
        with the reason. `members` is N, which is looked up in the object when it is not given. Takes at most two
        deadlines.
        """
        if isinstance(waveforms, np.ndarray):
            count, shared = waveforms.shape[1], ray.put(waveforms)
        else:
            count = members or (await asyncio.wait_for(_value(waveforms), self._deadline_s)).shape[1]
            shared = waveforms
        arguments = (shared, sample_rate, references, detail)
        names = list(self._pools)
        results = await asyncio.gather(*(self._score(name, arguments, count) for name in names))
        return dict(zip(names, results, strict=True))

    def score_all_blocking(
        self, waveforms: Any, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> dict[str, Scores]:
        """`score_all` for callers without an event loop."""
        return asyncio.run(self.score_all(waveforms, sample_rate, references, detail))

    def resting(self) -> dict[str, int]:
        """Number of replicas per dimension whose breaker is open."""
        return {d: sum(r.resting_until > p.clock() for r in p.replicas) for d, p in self._pools.items()}

    async def _score(self, dimension: str, arguments: tuple[Any, ...], members: int) -> Scores:
        """One dimension: a call, and after a failure one more on another replica, or on the same once it is back."""
        pool, groups, tags = self._pools[dimension], len(arguments[2]), {"dimension": dimension}
        reasons: list[str] = []
        replica: Replica | None = None
        for attempt in range(2):
            previous, replica = replica, pool.pick(avoid=replica)
            start = time.perf_counter()
            try:
                call = _call(replica.handle, arguments, patient=attempt > 0 and replica is previous)
                answer = await asyncio.wait_for(call, self._deadline_s)
            except Exception as error:
                reasons.append(self._failed(pool, replica, error))
                self._failures.inc(tags=tags)
                continue
            scores, problem = checked(answer, groups, members)
            self._latency.observe(time.perf_counter() - start, tags=tags)
            if problem is None:
                pool.succeeded(replica)
            else:
                pool.failed(replica)
                self._failures.inc(tags=tags)
            if np.isfinite(scores.values).any():
                self._mean.set(float(np.nanmean(scores.values)), tags=tags)
            return scores
        return all_missing(groups, members, f"{dimension} reward: " + "; then ".join(reasons))

    def _failed(self, pool: Pool, replica: Replica, error: Exception) -> str:
        """Account for a failed call; a stuck replica is killed so that Ray restarts it. Returns the reason."""
        pool.failed(replica)
        if isinstance(error, TimeoutError):
            _restart(replica.handle)
            return f"no answer within {self._deadline_s:g} s"
        if isinstance(error, RayActorError):
            return "the replica died"
        if isinstance(error, RayTaskError):
            return f"the scorer raised {type(error.cause).__name__}: {error.cause}"
        return f"{type(error).__name__}: {error}"


async def _value(ref: Any) -> Any:
    return await ref


async def _call(handle: Any, arguments: tuple[Any, ...], patient: bool) -> Any:
    """Await a score; when `patient`, a replica that is being restarted is asked again until it is back."""
    while True:
        try:
            return await handle.score.remote(*arguments)
        except RayActorError:
            if not patient:
                raise
            await asyncio.sleep(RESTART_POLL_S)


def _restart(handle: Any) -> None:
    """Kill a stuck actor; Ray starts it again."""
    if isinstance(handle, ActorHandle):
        ray.kill(handle, no_restart=False)
