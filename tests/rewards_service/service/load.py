"""Requests that keep coming while something happens to the replicas, and every answer checked against its question."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from rewards_service import backends
from rewards_service.config import RewardConfig
from rewards_service.scores import Reference, Scores
from rewards_service.service.client import RewardClient

MARK = "tests.rewards_service.service.replicas:MarkScorer"
RATE = 16000


def rewards(backend: str, scorers: dict[str, dict[str, Any]], **settings: Any) -> RewardConfig:
    """A reward section with exactly these dimensions."""
    config = RewardConfig.model_validate({"backend": backend, "scorers": scorers, **settings})
    return config.model_copy(update={"scorers": {name: config.scorers[name] for name in scorers}})


def marking(backend: str, replicas: int = 1, scorer: dict[str, Any] | None = None, **settings: Any) -> RewardConfig:
    """A reward section whose only dimension, "mark", scores each sample its first value."""
    options = {"options": settings.pop("options", {}), "service": settings.pop("service", {})}
    mine = {"scorer": MARK, "replicas": replicas, "num_cpus": 0.01, **options, **(scorer or {})}
    return rewards(backend, {"mark": mine}, **settings)


@contextmanager
def deployed(config: RewardConfig) -> Iterator[tuple[RewardClient, str]]:
    """A client of these replicas and their namespace; they end with the block."""
    namespace = f"load-{uuid.uuid4().hex[:8]}"
    deployment = backends.launch(config, namespace)
    try:
        deployment.await_ready()
        yield backends.connect(config, namespace), namespace
    finally:
        deployment.stop()


def question(mark: float, groups: int = 2, members: int = 3, samples: int = 1600) -> np.ndarray:
    """Waveforms (G, N, 2, S) whose samples start with `mark` and its successors."""
    sounds = np.zeros((groups, members, 2, samples), np.float32)
    sounds[:, :, 0, 0] = mark + np.arange(groups * members).reshape(groups, members) / 1000
    return sounds


def references(groups: int = 2) -> list[Reference]:
    return [Reference(str(i), "a bell", 0.1, (0.05,), (0.0,), 16.0) for i in range(groups)]


@dataclass
class Load:
    """`callers` tasks that ask one thing after another.

    answers: how many came, all of them right. lost: reasons of missing scores. slowest_s: longest wait.
    """

    client: RewardClient
    callers: int = 4
    ask: Callable[[int], np.ndarray] | None = None
    answers: int = 0
    lost: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _stop: bool = False

    async def during(self, act: Callable[["Load"], Awaitable[Any]]) -> Any:
        """Run `act` while requests go on, and return its result."""
        tasks = [asyncio.ensure_future(self._call(caller)) for caller in range(self.callers)]
        try:
            return await act(self)
        finally:
            self._stop = True
            await asyncio.gather(*tasks)

    async def more(self, count: int, limit_s: float = 60.0) -> None:
        """Wait for that many more answers."""
        goal, end = self.answers + count, time.monotonic() + limit_s
        while self.answers < goal:
            assert time.monotonic() < end, f"only {self.answers} answers of {goal}; lost: {self.lost[:3]}"
            await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[dict[str, dict[str, int]]], bool], limit_s: float = 45.0) -> None:
        """Wait for what `RewardClient.replicas` says."""
        end = time.monotonic() + limit_s
        while not condition(found := await self.client.replicas()):
            assert time.monotonic() < end, f"it never happened: {found}"
            await asyncio.sleep(0.1)

    async def _call(self, caller: int) -> None:
        turn = 0
        while not self._stop:
            turn += 1
            sounds = self.ask(turn) if self.ask else question((caller + turn % 40) / 100)
            began = time.monotonic()
            scores = await self.client.score_all(sounds, RATE, references(len(sounds)))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            for scored in scores.values():
                self.lost += scored.missing.values()
            if "mark" in scores and not scores["mark"].missing:
                np.testing.assert_array_equal(scores["mark"].values, sounds[:, :, 0, 0].astype(np.float64))
            self.answers += 1


def answered(scores: Scores, sounds: np.ndarray) -> None:
    """Every sample has its own mark as its score."""
    assert not scores.missing
    np.testing.assert_array_equal(scores.values, sounds[:, :, 0, 0].astype(np.float64))


def replica_pids(backend: str, namespace: str, dimension: str) -> list[int]:
    """Processes of a dimension's replicas."""
    if backend == "actors":
        from rewards_service.service.deploy import replica_name

        found, index = [], 0
        while True:
            try:
                handle: Any = ray.get_actor(replica_name(dimension, index), namespace)
            except ValueError:
                return found
            found.append(ray.get(handle.pid.remote(), timeout=30))
            index += 1
    from ray.serve.context import _get_global_client

    from rewards_service.service.serving import app_name

    controller: Any = _get_global_client()
    told = controller.get_serve_details()["applications"][app_name(namespace, dimension)]
    (deployment,) = told["deployments"].values()
    return sorted(replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING")
