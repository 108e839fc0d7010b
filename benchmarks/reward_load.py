"""Clips per second of a scorer, bare in this process or behind its replicas."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from rewards_service import backends
from rewards_service.config import RewardConfig
from rewards_service.errors import RewardError
from rewards_service.scores import Reference, Scorer
from rewards_service.service.client import RewardClient
from rewards_service.service.deploy import replica_name

RATE = 16000
SECONDS = 2.0


@dataclass(frozen=True)
class Batch:
    """What one request asks: G prompts with N sounds of two seconds each. shared: the same, in Ray's object store."""

    waveforms: np.ndarray
    references: list[Reference]
    shared: Any = None

    @staticmethod
    def make(groups: int = 1, members: int = 8, share: bool = True) -> "Batch":
        """Decaying noise bursts at known times and places."""
        random = np.random.default_rng(0)
        t = np.arange(round(SECONDS * RATE)) / RATE
        burst = np.where(t > 0.5, np.exp(-8 * (t - 0.5)), 0.0)
        sounds = (0.3 * burst * random.standard_normal((groups, members, 2, len(t)))).astype(np.float32)
        told = [Reference(f"clip{g}", "a bell", SECONDS, (0.5,), (0.0,) * 32, 16.0) for g in range(groups)]
        return Batch(sounds, told, ray.put(sounds) if share else None)

    @property
    def clips(self) -> int:
        """Sounds that one request scores."""
        return self.waveforms.shape[0] * self.waveforms.shape[1]


def bare(scorer: Scorer, batch: Batch, seconds: float) -> float:
    """Requests per second of the class itself, one after another."""
    scorer.score(batch.waveforms, RATE, batch.references)
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        scorer.score(batch.waveforms, RATE, batch.references)
        count += 1
    return count / spent


async def served(client: RewardClient, dimension: str, batch: Batch, seconds: float, in_flight: int) -> float:
    """Requests per second with always so many in flight. Raises RewardError when one was not answered."""
    done, counting, stop = 0, False, False

    async def ask() -> None:
        nonlocal done
        while not stop:
            scores = await client.score_all(
                batch.shared, RATE, batch.references, members=batch.waveforms.shape[1], dimensions=[dimension]
            )
            if scores[dimension].missing:
                raise RewardError(next(iter(scores[dimension].missing.values())))
            done += counting

    tasks = [asyncio.ensure_future(ask()) for _ in range(in_flight)]
    try:
        await asyncio.sleep(min(1.0, seconds / 2))  # until queues are as full as they will be
        counting, began = True, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = done / (time.perf_counter() - began)
    finally:
        stop = True
        await asyncio.gather(*tasks)
    return rate


@dataclass(frozen=True)
class Service:
    """One backend with its dimensions."""

    client: RewardClient
    backend: str
    namespace: str

    def health(self, dimension: str) -> dict[str, Any]:
        """What a replica says of itself; meant for dimensions with one."""
        if self.backend == "serve":
            from ray import serve

            from rewards_service.service.serving import app_name

            handle: Any = serve.get_app_handle(app_name(self.namespace, dimension))
            return handle.health.remote(route={}).result(timeout_s=60)
        actor: Any = ray.get_actor(replica_name(dimension, 0), self.namespace)
        return ray.get(actor.health.remote(), timeout=60)


@contextmanager
def deployed(backend: str, scorers: dict[str, dict[str, Any]]) -> Iterator[Service]:
    """Exactly these dimensions on one backend."""
    whole = RewardConfig.model_validate({"backend": backend, "scorers": scorers, "start_s": 600.0, "deadline_s": 120.0})
    config = whole.model_copy(update={"scorers": {name: whole.scorers[name] for name in scorers}})
    namespace = f"bench-{secrets.token_hex(4)}"
    deployment = backends.launch(config, namespace)
    try:
        deployment.await_ready()
        yield Service(backends.connect(config, namespace), backend, namespace)
    finally:
        deployment.stop()
