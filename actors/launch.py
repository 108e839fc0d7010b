"""Starts the actors of one run on a Ray that is already there, and ends them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.buffer import ExperienceBuffer
from actors.config import BufferConfig
from actors.coordinator import Coordinator, CoordinatorError, Rewards, RunPlan
from actors.messages import Prompt
from actors.pool import cause
from actors.rollout import RolloutWorker, SampleGenerator
from actors.weights import WeightStore
from settings import PrismError


@dataclass(frozen=True)
class ActorNames:
    """Names under which a run's actors are found with `ray.get_actor(name, namespace)`."""

    run: str
    namespace: str

    @property
    def weights(self) -> str:
        """The weight store's."""
        return f"{self.run}-weights"

    @property
    def buffer(self) -> str:
        """The experience buffer's."""
        return f"{self.run}-buffer"

    @property
    def coordinator(self) -> str:
        """The coordinator's."""
        return f"{self.run}-coordinator"

    def worker(self, index: int) -> str:
        """A rollout actor's."""
        return f"{self.run}-rollout-{index}"


@dataclass(frozen=True)
class RunActors:
    """Handles of one run's actors; they end with the driver, or with `stop`."""

    names: ActorNames
    weights: Any
    buffer: Any
    coordinator: Any
    workers: list[Any] = field(default_factory=list)

    def stop(self) -> None:
        """End every actor at once."""
        for handle in [self.coordinator, *self.workers, self.buffer, self.weights]:
            ray.kill(handle)


def launch(
    names: ActorNames,
    plan: RunPlan,
    prompts: Sequence[Prompt],
    build: Callable[[], SampleGenerator],
    rewards: Callable[[], Rewards],
    buffer: BufferConfig,
    base: dict | None = None,
) -> RunActors:
    """Start weight store, buffer, rollout actors and coordinator, and wait until all rollout actors hold their model.

    build: makes a rollout actor's generator inside its process (`actors.generator.load_generator` with its arguments).
    rewards: makes the reward client inside the coordinator. base: the ledger of the run this one continues.
    Raises CoordinatorError or PoolError when an actor does not start.
    """
    config = plan.rollout
    # A rollout of iteration i may still ask for version i - max_staleness while i is being published.
    weights = _light(WeightStore, names, names.weights).remote(keep=config.max_staleness + 2)
    store = _light(ExperienceBuffer, names, names.buffer).remote(buffer, base)
    workers = [
        ray.remote(RolloutWorker)
        .options(
            name=names.worker(index),
            namespace=names.namespace,
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            max_restarts=-1,
            max_task_retries=0,
        )
        .remote(build, names.weights, names.namespace, plan.rpc_deadline_s)
        for index in range(config.workers)
    ]
    coordinator = _light(Coordinator, names, names.coordinator).remote(plan, list(prompts), workers, store, rewards)
    actors = RunActors(names, weights, store, coordinator, workers)
    try:
        ray.get(coordinator.start.remote(), timeout=config.start_deadline_s + plan.rpc_deadline_s)
    except (RayTaskError, RayActorError, GetTimeoutError) as error:
        actors.stop()
        inner = getattr(error, "cause", None)
        if isinstance(inner, PrismError):
            raise inner from error
        raise CoordinatorError(f"The run's actors did not start: {cause(error)}") from error
    return actors


def _light(kind: type, names: ActorNames, name: str) -> Any:
    """An actor that mostly waits: no CPU reserved, never restarted, since its state would be gone."""
    return ray.remote(kind).options(name=name, namespace=names.namespace, num_cpus=0, max_task_retries=0)
