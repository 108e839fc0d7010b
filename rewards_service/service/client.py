"""Calling the reward replicas: all dimensions at once, a deadline per call, one retry elsewhere, no made-up numbers."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.metrics import Counter, Gauge, Histogram

from rewards_service.errors import RefusedError, RewardError
from rewards_service.scores import Reference, Scores
from rewards_service.service.endpoint import ActorEndpoint, Endpoint, Request
from rewards_service.service.pool import Pool, Replica
from rewards_service.service.verdict import all_missing, checked

LATENCY_BOUNDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]


class Fleet(Protocol):
    """The replicas of all dimensions; one kind in `service/deploy.py`, one in `service/serving.py`."""

    def endpoints(self) -> dict[str, list[Endpoint]]:
        """Where to send requests, by dimension."""
        ...

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest score, by dimension."""
        ...

    async def scale(self, dimension: str, pool: Pool, replicas: int, max_replicas: int | None) -> None:
        """Change how many replicas a dimension has, without losing a request. Raises RewardError."""
        ...

    async def replicas(self, dimension: str, pool: Pool) -> dict[str, int]:
        """{"running", "wanted"} replicas of a dimension."""
        ...


class RewardClient:
    """Scores batches with every dimension's replicas in parallel. Lives in the coordinator or in a driver."""

    def __init__(
        self,
        replicas: Mapping[str, Sequence[Any]],
        deadline_s: float = 30.0,
        patience: int = 3,
        rest_s: float = 2.0,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        """`replicas`: endpoints, or actor handles with a `score` method, by dimension.

        bounds: of the scores, (0, 1) where not said. fleet: for changing the number of replicas. Raises RewardError for
        a dimension without any.
        """
        empty = [dimension for dimension, handles in replicas.items() if not handles]
        if empty or not replicas:
            raise RewardError(f"No replicas for {', '.join(empty) or 'any dimension'}; deploy at least one each.")
        self._pools = {
            d: Pool.of([_endpoint(h) for h in handles], patience=patience, rest_s=rest_s)
            for d, handles in replicas.items()
        }
        self._deadline_s = deadline_s
        self._bounds = dict(bounds or {})
        self._fleet = fleet
        self._scaling: dict[str, asyncio.Lock] = {dimension: asyncio.Lock() for dimension in replicas}
        tags = ("dimension",)
        self._latency = Histogram("prism_reward_latency_seconds", "Time of a reward call", LATENCY_BOUNDS, tags)
        self._failures = Counter("prism_reward_failures_total", "Reward calls that failed", tags)
        self._missing = Counter("prism_reward_missing_total", "Scores that were not given", tags)
        self._mean = Gauge("prism_reward", "Mean reward of the last batch", tags)
        self._count = Gauge("prism_reward_replicas", "Replicas that answer", tags)
        self._counted: dict[str, dict[str, int]] = {d: {"calls": 0, "failures": 0, "missing": 0} for d in replicas}

    @classmethod
    def of(cls, fleet: Fleet, deadline_s: float = 30.0) -> "RewardClient":
        """A client of a fleet."""
        return cls(fleet.endpoints(), deadline_s, bounds=fleet.bounds(), fleet=fleet)

    async def score_all(
        self,
        waveforms: Any,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        members: int | None = None,
        dimensions: Sequence[str] | None = None,
    ) -> dict[str, Scores]:
        """Scores of (G, N, 2, S) waveforms (array or object reference) per dimension; never raises for a failed reward.

        A dimension that does not answer properly within its deadline, nor on a second try, is returned as missing
        with the reason. `members` is N, which is looked up in the object when it is not given. dimensions: all that are
        not judges when None. Takes at most two deadlines.
        """
        if isinstance(waveforms, np.ndarray):
            count, shared = waveforms.shape[1], ray.put(waveforms)
        else:
            count = members or (await asyncio.wait_for(_value(waveforms), self._deadline_s)).shape[1]
            shared = waveforms
        request = Request(shared, sample_rate, references, detail)
        names = [d for d in self._pools if not d.startswith("judge_")] if dimensions is None else list(dimensions)
        results = await asyncio.gather(*(self._score(name, request, count) for name in names))
        return dict(zip(names, results, strict=True))

    def score_all_blocking(
        self,
        waveforms: Any,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        dimensions: Sequence[str] | None = None,
    ) -> dict[str, Scores]:
        """`score_all` for callers without an event loop."""
        return asyncio.run(self.score_all(waveforms, sample_rate, references, detail, dimensions=dimensions))

    async def scale(self, dimension: str, replicas: int, max_replicas: int | None = None) -> dict[str, int]:
        """Give a dimension another number of replicas while others go on; returns what `Fleet.replicas` says then.

        Raises RewardError for a dimension that is not there, a number below 1, and when new replicas do not start.
        """
        if dimension not in self._pools or self._fleet is None:
            raise RewardError(f"There is no {dimension} reward to scale; there are {', '.join(self._pools)}.")
        if replicas < 1 or (max_replicas is not None and max_replicas < replicas):
            raise RewardError(f"Expected at least 1 replica and no smaller maximum, got {replicas} and {max_replicas}.")
        async with self._scaling[dimension]:
            await self._fleet.scale(dimension, self._pools[dimension], replicas, max_replicas)
        return (await self.replicas())[dimension]

    async def replicas(self) -> dict[str, dict[str, int]]:
        """{"running", "wanted"} replicas of each dimension."""
        found: dict[str, dict[str, int]] = {}
        for dimension, pool in self._pools.items():
            known = {"running": len(pool.replicas), "wanted": len(pool.replicas)}
            found[dimension] = await self._fleet.replicas(dimension, pool) if self._fleet is not None else known
            self._count.set(found[dimension]["running"], tags={"dimension": dimension})
        return found

    async def status(self) -> dict[str, dict[str, int]]:
        """Of each dimension: replicas "running", "wanted" and "resting", calls "in_flight", and what was counted."""
        found = await self.replicas()
        for dimension, pool in self._pools.items():
            found[dimension]["in_flight"] = sum(r.in_flight for r in pool.replicas)
            found[dimension] |= {"resting": self.resting()[dimension], **self._counted[dimension]}
        return found

    def resting(self) -> dict[str, int]:
        """Number of replicas per dimension whose breaker is open."""
        return {
            d: sum(max(r.handle.resting(), r.resting_until > p.clock()) for r in p.replicas)
            for d, p in self._pools.items()
        }

    async def _score(self, dimension: str, request: Request, members: int) -> Scores:
        """One dimension: a call, and after a failure one more on another replica, or on the same once it is back."""
        ending: list[asyncio.Task] = []
        try:
            return await self._tried(dimension, request, members, ending)
        finally:
            await asyncio.gather(*ending, return_exceptions=True)

    async def _tried(self, dimension: str, request: Request, members: int, ending: list[asyncio.Task]) -> Scores:
        """`_score`; tasks that end stuck replicas are left in `ending`."""
        pool, tags = self._pools[dimension], {"dimension": dimension}
        reasons: list[str] = []
        replica: Replica | None = None
        for attempt in range(2):
            replica = pool.pick(avoid=replica)
            start = time.perf_counter()
            replica.in_flight += 1
            try:
                answer = await asyncio.wait_for(replica.handle.score(request, patient=attempt > 0), self._deadline_s)
            except Exception as error:
                if isinstance(error, TimeoutError):
                    ending.append(asyncio.ensure_future(replica.handle.give_up(request, self._deadline_s)))
                reasons.append(self._failed(pool, replica, error))
                self._fail(dimension)
                continue
            finally:
                replica.in_flight -= 1
            self._counted[dimension]["calls"] += 1
            scores, problem = checked(answer, request.groups, members, self._bounds.get(dimension, (0.0, 1.0)))
            self._latency.observe(time.perf_counter() - start, tags=tags)
            if problem is None:
                pool.succeeded(replica)
            else:
                pool.failed(replica)
                self._fail(dimension)
            if np.isfinite(scores.values).any():
                self._mean.set(float(np.nanmean(scores.values)), tags=tags)
            return self._given(dimension, scores)
        reason = f"{dimension} reward: " + "; then ".join(reasons)
        return self._given(dimension, all_missing(request.groups, members, reason))

    def _given(self, dimension: str, scores: Scores) -> Scores:
        if scores.missing:
            self._counted[dimension]["missing"] += len(scores.missing)
            self._missing.inc(len(scores.missing), tags={"dimension": dimension})
        return scores

    def _fail(self, dimension: str) -> None:
        self._counted[dimension]["failures"] += 1
        self._failures.inc(tags={"dimension": dimension})

    def _failed(self, pool: Pool, replica: Replica, error: Exception) -> str:
        """Account for a failed call; a full queue is nobody's failure. Returns the reason."""
        if not isinstance(error, RefusedError):
            pool.failed(replica)
        if isinstance(error, TimeoutError):
            return f"no answer within {self._deadline_s:g} s"
        if isinstance(error, RayActorError):
            return "the replica died"
        if isinstance(error, RayTaskError):
            return f"the scorer raised {type(error.cause).__name__}: {error.cause}"
        return f"{type(error).__name__}: {error}"


def _endpoint(handle: Any) -> Endpoint:
    return handle if hasattr(handle, "give_up") else ActorEndpoint(handle)


async def _value(ref: Any) -> Any:
    return await ref
