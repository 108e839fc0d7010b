"""The learner's calls meet actors that are absent, dead, hung, failing or forgetful."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import ray

from settings import PrismError
from trainer.errors import LearnerError
from trainer.experience import Experience


@dataclass(frozen=True)
class Three:
    namespace: str
    buffer: str
    weights: str
    coordinator: str


class Upstream(PrismError):
    """A failure reported by another room."""


class Peer:
    """All three roles; `mood` says how it behaves."""

    def __init__(self, mood: str):
        self.mood = mood
        self.published: dict[int, str] = {}
        self.measured: list[Any] = []

    async def publish(self, version: int, params: dict, checksum: str) -> None:
        if self.mood == "hung":
            await asyncio.sleep(60)
        self.published[version] = checksum

    async def rewind(self, version: int, states: Any) -> None:
        self.measured.append(states)

    async def advance(self, version: int, spreads: Any) -> None:
        self.measured.append(spreads)

    async def status(self) -> dict:
        return {"measured": self.measured}

    async def record(self, iteration: int) -> None: ...

    async def request_stop(self) -> None:
        self.mood = "stopping"

    async def take(self, iteration: int, rank: int, world: int, timeout_s: float) -> str:
        if self.mood == "failed":
            raise Upstream("the reward actors are gone")
        for _ in range(int(timeout_s / 0.05) + 1):
            if self.mood == "stopping":
                return "stop"
            await asyncio.sleep(0.05)
        raise TimeoutError

    async def ack(self, lease: str) -> bool:
        return self.mood != "forgetful"


@pytest.fixture
def peers(ray_session: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[Experience, Any]]]:
    made = []

    def make(mood: str, deadline_s: float = 30.0, take_timeout_s: float = 60.0) -> tuple[Experience, Any]:
        name = request.node.name
        made.append(ray.remote(Peer).options(name=name, namespace=ray_session, num_cpus=0).remote(mood))
        ray.get(made[-1].status.remote(), timeout=60)
        return Experience(Three(ray_session, name, name, name), deadline_s, take_timeout_s), made[-1]

    yield make
    for actor in made:
        ray.kill(actor)


def test_an_absent_actor_is_named(ray_session):
    with pytest.raises(LearnerError, match="no actor 'nobody'"):
        Experience(Three(ray_session, "nobody", "nobody", "nobody"), 1, 1)


def test_a_hung_actor_meets_the_deadline(peers):
    experience, _ = peers("hung", deadline_s=0.5)
    with pytest.raises(LearnerError, match=r"publish weights within 0\.5 s"):
        experience.begin(0, {"w": np.zeros(2)}, "sum")


def test_a_dead_actor_is_noticed_while_waiting_for_a_batch(peers):
    experience, actor = peers("idle", take_timeout_s=600)
    ray.kill(actor)
    began = time.monotonic()
    with pytest.raises(LearnerError, match="actor is dead"):
        experience.take(0, 0, 1)
    assert time.monotonic() - began < 60


def test_a_failure_upstream_arrives_with_its_reason_and_without_a_traceback(peers):
    experience, _ = peers("failed")
    with pytest.raises(LearnerError, match=r"^the reward actors are gone$"):
        experience.take(0, 0, 1)


def test_no_batch_in_time(peers):
    experience, _ = peers("idle", take_timeout_s=0.3)
    with pytest.raises(LearnerError, match=r"No batch of iteration 7 came within 0\.3 s"):
        experience.take(7, 0, 1)


def test_a_stop_asked_while_waiting_ends_the_wait(peers):
    experience, _ = peers("idle")
    answers = iter([False, True])
    assert experience.take(0, 0, 1, lambda: next(answers, True)) == "stop"


def test_a_lost_lease_stops_the_learner(peers):
    experience, _ = peers("forgetful")
    with pytest.raises(LearnerError, match=r"lease 0:0:1 ran out"):
        experience.finish("0:0:1", 1, {"w": np.zeros(2)}, "sum")


def test_what_the_learner_measured_reaches_the_coordinator(peers):
    experience, actor = peers("idle")
    experience.begin(3, {"w": np.zeros(2)}, "sum", {2: {0: 0.1}, 3: {0: 0.2}})
    experience.finish("3:0:1", 4, {"w": np.zeros(2)}, "sum", {0: 0.3})
    experience.begin(4, {"w": np.zeros(2)}, "sum")
    status: Any = ray.get(actor.status.remote(), timeout=60)
    assert status["measured"] == [{2: {0: 0.1}, 3: {0: 0.2}}, {0: 0.3}, None]


def test_a_record_that_never_comes_is_none(peers):
    experience, _ = peers("idle")
    assert experience.record(3) == (None, {"measured": []})
