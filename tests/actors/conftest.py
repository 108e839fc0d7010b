"""A learner without a model, and runs that end with their test."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.config import BufferConfig, RolloutConfig
from actors.coordinator import RunPlan
from actors.launch import ActorNames, RunActors, launch
from tests.actors.fakes import MEMBERS, WEIGHTS, FakeGenerator, FakeRewards, checksum_of, make_prompts
from trainer.config import AlgorithmConfig

DEADLINE_S = 60


@dataclass
class Run:
    """A run's actors, with the learner's part played by the test.

    kept: latent marks of every trained group, by iteration.
    """

    actors: RunActors
    iterations: int
    kept: dict[int, list[float]] = field(default_factory=dict)

    def get(self, ref: Any) -> Any:
        return ray.get(ref, timeout=DEADLINE_S)

    def begin(self, version: int = 0) -> None:
        self.publish(version)
        self.get(self.actors.coordinator.rewind.remote(version))

    def publish(self, version: int) -> None:
        params = {"weight": np.full(3, version, dtype=np.float32)}
        self.get(self.actors.weights.publish.remote(version, params, checksum_of(version)))

    def take(self, iteration: int) -> Any:
        return self.get(self.actors.buffer.take.remote(iteration, 0, 1, DEADLINE_S))

    def finish(self, batch: Any) -> None:
        groups = batch.select(self.get(batch.refs))
        self.kept[batch.iteration] = [float(group.latents.flat[0]) for group in groups]
        self.publish(batch.iteration + 1)
        assert self.get(self.actors.buffer.ack.remote(batch.lease))
        self.get(self.actors.coordinator.advance.remote(batch.iteration + 1))

    def train(self, first: int = 0) -> None:
        """Every iteration from `first` to the end."""
        for iteration in range(first, self.iterations):
            self.finish(self.take(iteration))

    def status(self) -> dict[str, Any]:
        return self.get(self.actors.coordinator.status.remote())

    def settle(self) -> dict[str, Any]:
        """The final ledger."""
        return self.get(self.actors.buffer.finish.remote())

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that must happen."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.02)


@pytest.fixture
def start(ray_session: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs on the session's Ray and ends them after the test."""
    started: list[RunActors] = []

    def begin(
        iterations: int = 4,
        batch: int = 4,
        generator: FakeGenerator | None = None,
        rewards: Any = None,
        buffer: BufferConfig | None = None,
        missing: str = "drop",
        max_missing_share: float = 0.5,
        weights: Mapping[str, float] = WEIGHTS,
        **rollout: Any,
    ) -> Run:
        plan = RunPlan(
            seed=11,
            iterations=iterations,
            algorithm=AlgorithmConfig(prompts=batch, group_size=MEMBERS),
            rollout=RolloutConfig(**{"num_cpus": 0.1, "prompts_per_task": 2, "deadline_s": 30.0} | rollout),
            weights=weights,
            missing=missing,  # type: ignore[arg-type]
            max_missing_share=max_missing_share,
        )
        actors = launch(
            ActorNames(f"{tmp_path.name}-{len(started)}", ray_session),
            plan,
            make_prompts(10),
            partial(_make, generator or FakeGenerator()),
            rewards or FakeRewards,
            buffer or BufferConfig(),
        )
        started.append(actors)
        return Run(actors, iterations)

    yield begin
    for actors in started:
        actors.stop()


def _make(thing: Any) -> Any:
    return thing
