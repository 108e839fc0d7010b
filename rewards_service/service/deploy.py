"""Reward replicas as named Ray actors: starting them, finding them again by name, changing their number."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

from rewards_service.build import bounds_of, build_scorer, environment_of
from rewards_service.config import RewardConfig, ScorerConfig
from rewards_service.errors import RewardError
from rewards_service.service.actor import RewardActor
from rewards_service.service.endpoint import WATCH, ActorEndpoint, Endpoint
from rewards_service.service.pool import Pool

Replicas = dict[str, list[ActorHandle]]


class Deployment(Protocol):
    """Replicas that were asked to start."""

    def await_ready(self) -> None:
        """Wait until every replica has scored once. Raises RewardError, after stopping all, when one does not."""
        ...

    def stop(self) -> None:
        """End all replicas for good."""
        ...


_IDLE_POLL_S = 0.05
_FORGET_POLLS = 200


def replica_name(dimension: str, index: int) -> str:
    """Name of a replica inside the run's namespace."""
    return f"reward-{dimension}-{index}"


def check(config: RewardConfig) -> None:
    """Raise RewardConfigError for a scorer or an option that does not exist; nothing is loaded or started."""
    for dimension, scorer in config.deployed.items():
        build_scorer(dimension, scorer)


@dataclass(frozen=True)
class ActorDeployment:
    """Plain actors; they live as long as this is held."""

    replicas: Replicas
    start_s: float

    def await_ready(self) -> None:
        """Wait until every replica has scored once.

        Raises RewardError when one has not after `start_s` seconds, with its reason; all are then stopped.
        """
        deadline = time.monotonic() + self.start_s
        waiting = {handle.health.remote(): name for name, handle in _named(self.replicas)}
        try:
            for ref, name in waiting.items():
                _await_start(ref, name, deadline, self.start_s)
        except RewardError:
            self.stop()
            raise

    def stop(self) -> None:
        """End all replicas for good."""
        for _, handle in _named(self.replicas):
            ray.kill(handle, no_restart=True)


def launch(config: RewardConfig, namespace: str | None = None) -> ActorDeployment:
    """Begin to start every dimension's replicas; other work fits in before `await_ready`.

    A replica is restarted for ever; a call in flight at its death is not repeated by Ray (the client decides).
    Raises RewardConfigError for a wrong option, before any process starts, and RewardError when a scorer's own
    environment cannot be made.
    """
    check(config)
    replicas = {
        dimension: [start(dimension, scorer, config, index, namespace) for index in range(scorer.replicas)]
        for dimension, scorer in config.deployed.items()
    }
    return ActorDeployment(replicas, config.start_s)


def start(
    dimension: str, scorer: ScorerConfig, config: RewardConfig, index: int, namespace: str | None = None
) -> ActorHandle:
    """Begin to start one replica."""
    options: dict[str, Any] = actor_options(dimension, scorer, config)
    options |= {"name": replica_name(dimension, index), "max_restarts": -1, "max_task_retries": 0}
    options["max_pending_calls"] = scorer.service.queue_limit
    if namespace:
        options["namespace"] = namespace
    remote: Any = ray.remote
    grouped = remote(concurrency_groups={WATCH: 1})(RewardActor)
    return grouped.options(**options).remote(dimension, scorer.model_dump_json())


def actor_options(dimension: str, scorer: ScorerConfig, config: RewardConfig) -> dict[str, Any]:
    """What a replica asks Ray for: its shares of the machine, and its own packages if it has any."""
    options: dict[str, Any] = {"num_cpus": scorer.num_cpus, "num_gpus": scorer.num_gpus}
    environment = environment_of(dimension, scorer)
    if environment is not None:
        options["runtime_env"] = environment.runtime_env(config.packages, scorer.image)
    return options


def connect(config: RewardConfig, namespace: str | None = None) -> Replicas:
    """The replicas there are, by name. Raises RewardError when a dimension has none."""
    replicas: Replicas = {}
    for dimension in config.deployed:
        replicas[dimension] = found = []
        while (handle := _find(replica_name(dimension, len(found)), namespace)) is not None:
            found.append(handle)
        if not found:
            raise RewardError(f"No {dimension} reward is running in {namespace!r}; deploy the rewards first.")
    return replicas


class ActorFleet:
    """The replicas of a run, as its clients see them. Those it adds end with the process that it lives in."""

    def __init__(self, config: RewardConfig, namespace: str | None = None) -> None:
        self._config, self._namespace = config, namespace

    def endpoints(self) -> dict[str, list[Endpoint]]:
        """Where to send requests, by dimension. Raises RewardError when a dimension has none."""
        found = connect(self._config, self._namespace)
        return {dimension: [self._endpoint(dimension, h) for h in handles] for dimension, handles in found.items()}

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest score, by dimension."""
        return {dimension: bounds_of(dimension, scorer) for dimension, scorer in self._config.deployed.items()}

    async def scale(self, dimension: str, pool: Pool, replicas: int, max_replicas: int | None) -> None:
        """Start or end replicas one after another; one that ends has answered everything it was asked.

        Raises RewardError when a new one does not start, and for a maximum: plain actors do not scale with load.
        """
        if max_replicas not in (None, replicas):
            raise RewardError("Plain actors do not scale with load; give one number, or use rewards.backend: serve.")
        while len(pool.replicas) < replicas:
            pool.add(await self._started(dimension, len(pool.replicas)))
        while len(pool.replicas) > replicas:
            leaving = pool.retire()
            while leaving.in_flight:
                await asyncio.sleep(_IDLE_POLL_S)
            ray.kill(leaving.handle.handle, no_restart=True)
            await self._forgotten(replica_name(dimension, len(pool.replicas)))

    async def replicas(self, dimension: str, pool: Pool) -> dict[str, int]:
        """{"running", "wanted"} replicas of a dimension."""
        return {"running": len(pool.replicas), "wanted": len(pool.replicas)}

    async def _forgotten(self, name: str) -> None:
        """Wait until Ray has freed the name of a replica that was ended, for the next one of its kind."""
        for _ in range(_FORGET_POLLS):
            if _find(name, self._namespace) is None:
                return
            await asyncio.sleep(_IDLE_POLL_S)

    async def _started(self, dimension: str, index: int) -> Endpoint:
        scorer, name = self._config.deployed[dimension], replica_name(dimension, index)
        # In a thread: its environment may have to be made first.
        handle = await asyncio.to_thread(start, dimension, scorer, self._config, index, self._namespace)
        try:
            await asyncio.wait_for(handle.health.remote(), self._config.start_s)
        except (RayError, TimeoutError) as error:
            ray.kill(handle, no_restart=True)
            raise RewardError(f"{name} could not start: {_cause(error) or f'{self._config.start_s} s over'}") from error
        return self._endpoint(dimension, handle)

    def _endpoint(self, dimension: str, handle: ActorHandle) -> ActorEndpoint:
        return ActorEndpoint(handle, environment_of(dimension, self._config.deployed[dimension]) is not None)


def _find(name: str, namespace: str | None) -> ActorHandle | None:
    try:
        return ray.get_actor(name, namespace=namespace)
    except ValueError:
        return None


def _named(replicas: Replicas) -> list[tuple[str, ActorHandle]]:
    return [(replica_name(d, i), handle) for d, handles in replicas.items() for i, handle in enumerate(handles)]


def _cause(error: BaseException) -> str:
    """A Ray error ends with the exception that the actor met."""
    return (str(error).strip().splitlines() or [""])[-1]


def _await_start(ref: Any, name: str, deadline: float, start_s: float) -> None:
    try:
        ray.get(ref, timeout=max(deadline - time.monotonic(), 0.1))
    except GetTimeoutError as error:
        raise RewardError(
            f"{name} did not start within {start_s:.0f} s; Ray has {ray.available_resources()} free for it"
        ) from error
    except RayError as error:
        raise RewardError(f"{name} could not start: {_cause(error)}") from error
