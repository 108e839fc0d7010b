"""The rollout actor: pulls weights by version, samples one task's groups, returns them with their waveforms."""

import os
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import ray

from actors.messages import GroupInfo, RolloutResult, RolloutTask
from settings import PrismError
from trainer.group import Group


class RolloutError(PrismError):
    """A rollout actor got weights or settings it cannot sample with."""


class SampleGenerator(Protocol):
    """What a rollout actor runs: a model, a sampler and a codec. `actors.generator` has the real one."""

    sample_rate: int

    def load(self, params: dict[str, np.ndarray]) -> str:
        """Copy published parameters into the model; returns the checksum of what it now holds under their names.

        The arrays are read-only views that are only valid during the call.
        """
        ...

    def generate(self, task: RolloutTask, checksum: str, /) -> tuple[list[Group], np.ndarray]:
        """The task's groups without rewards, and waveforms (G, N, 2, S) float32 in [-1, 1]."""
        ...


class RolloutWorker:
    """Plain class; start it with `ray.remote(max_restarts=-1, max_task_retries=0)`.

    Stateless but for the weights it holds, so a restarted one continues at once. Retries are the coordinator's
    business: Ray must not repeat a generate call by itself.
    """

    def __init__(self, build: Callable[[], SampleGenerator], weights: str, namespace: str, deadline_s: float) -> None:
        # By name: a restart needs its arguments again, and Ray keeps actor handles among them only in the object store.
        self._weights = ray.get_actor(weights, namespace)
        self._generator = build()
        self._deadline_s = deadline_s
        self._loaded: tuple[int, str] | None = None

    def generate(self, task: RolloutTask) -> tuple[RolloutResult, list[Group], np.ndarray]:
        """Sample a task with exactly its weight version; call it with num_returns=3.

        Raises RolloutError when the pulled weights do not have the published checksum.
        """
        began = time.perf_counter()
        checksum = self._pull(task.version)
        groups, waveforms = self._generator.generate(task, checksum)
        result = RolloutResult(
            groups=[GroupInfo.of(group) for group in groups],
            members=waveforms.shape[1],
            sample_rate=self._generator.sample_rate,
            seconds=time.perf_counter() - began,
            pid=os.getpid(),
        )
        return result, groups, waveforms

    def ready(self) -> int:
        """Process id; answers once the model is built."""
        return os.getpid()

    def _pull(self, version: int) -> str:
        found, checksum, (ref,) = ray.get(self._weights.get.remote(version), timeout=self._deadline_s)
        if self._loaded != (found, checksum):
            self._loaded = None
            held = self._generator.load(ray.get(ref, timeout=self._deadline_s))
            if held != checksum:
                raise RolloutError(
                    f"Weights of version {found} arrived with checksum {held[:12]}, published was {checksum[:12]}; "
                    "learner and rollout actors must train and load the same set of parameters."
                )
            self._loaded = (found, checksum)
        return checksum
