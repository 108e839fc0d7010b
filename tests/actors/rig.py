"""A coordinator with in-process actors, and the learner's part played by the test."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.buffer import ExperienceBuffer
from actors.config import BufferConfig, RolloutConfig
from actors.coordinator import Coordinator, RunPlan
from actors.messages import Batch
from tests.actors.fakes import MEMBERS, WEIGHTS, FakeRewards, make_prompts
from tests.actors.local import Local, LocalWorker
from trainer.config import AlgorithmConfig


@dataclass
class Rig:
    """A coordinator, its buffer, and a learner's part. `kept`: the latent marks of each iteration's groups."""

    coordinator: Coordinator
    buffer: ExperienceBuffer
    workers: list[LocalWorker]
    iterations: int
    kept: dict[int, list[float]] = field(default_factory=dict)

    async def begin(self, version: int = 0) -> None:
        await self.coordinator.start()
        await self.coordinator.rewind(version)

    async def take(self, iteration: int) -> Batch:
        return await self.buffer.take(iteration, 0, 1, timeout_s=20)

    async def finish(self, batch: Batch) -> None:
        self.kept[batch.iteration] = [float(group.latents.flat[0]) for group in batch.select(batch.refs)]
        assert await self.buffer.ack(batch.lease)
        await self.coordinator.advance(batch.iteration + 1)

    async def train(self, first: int = 0) -> None:
        for iteration in range(first, self.iterations):
            await self.finish(await self.take(iteration))
        await settled(lambda: len(self.coordinator._records) == self.iterations)


def rig(
    *workers: LocalWorker,
    iterations: int = 3,
    batch: int = 4,
    rewards: FakeRewards | None = None,
    buffer: BufferConfig | None = None,
    missing: Any = "drop",
    max_missing_share: float = 0.5,
    pool: int = 10,
    weights: Mapping[str, float] = WEIGHTS,
    algorithm: Mapping[str, Any] | None = None,
    **rollout: Any,
) -> Rig:
    plan = RunPlan(
        seed=11,
        iterations=iterations,
        algorithm=AlgorithmConfig.model_validate({"prompts": batch, "group_size": MEMBERS, **(algorithm or {})}),
        rollout=RolloutConfig(**{"prompts_per_task": 2} | rollout),
        weights=weights,
        missing=missing,
        max_missing_share=max_missing_share,
    )
    store = ExperienceBuffer(buffer or BufferConfig(), put=lambda group: group)
    actors = list(workers) or [LocalWorker()]
    coordinator = Coordinator(
        plan, make_prompts(pool), [Local(w) for w in actors], Local(store), lambda: rewards or FakeRewards()
    )
    return Rig(coordinator, store, actors, iterations)


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


def marks(iteration: int, batch: int = 4, lag: int = 0) -> list[float]:
    return [10_000.0 * (iteration - lag) + 100 * iteration + index for index in range(batch)]
