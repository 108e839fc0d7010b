"""Replicas that die, hang or answer nonsense while requests keep coming, on both backends."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayActorError

from actors.config import BufferConfig, RolloutConfig
from actors.coordinator import RunPlan
from actors.launch import ActorNames, launch
from rewards_service.config import DIMENSIONS
from rewards_service.service.client import RewardClient
from tests.actors.conftest import Run
from tests.actors.fakes import MEMBERS, FakeGenerator, make_prompts
from tests.rewards_service.service.load import (
    RATE,
    Load,
    answered,
    deployed,
    marking,
    question,
    references,
    replica_pids,
    rewards,
)
from tests.rewards_service.service.replicas import WrongScorer
from trainer.advantages import advantages
from trainer.config import AlgorithmConfig

BACKENDS = ["actors", "serve"]


def noise(turn: int) -> np.ndarray:
    """Two prompts with three sounds of one second each."""
    return np.random.default_rng(turn).normal(0, 0.1, (2, 3, 2, RATE)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_killing_a_replica_of_each_dimension_under_load_loses_nothing(ray_session: str, backend: str) -> None:
    counts = {"semantic": 1, "temporal": 2, "aesthetic": 1, "spatial": 2}
    config = rewards(
        backend,
        {name: {"num_cpus": 0.01, "replicas": counts[name], "service": {"health_check_s": 1.0}} for name in DIMENSIONS},
        deadline_s=40.0,
    )
    with deployed(config) as (client, namespace):

        async def kill(load: Load) -> None:
            await load.more(8)
            for name in DIMENSIONS:
                pids = await asyncio.to_thread(replica_pids, backend, namespace, name)
                os.kill(pids[0], signal.SIGKILL)
                await load.more(8)

        load = Load(client, ask=noise)
        asyncio.run(load.during(kill))
        status = asyncio.run(client.status())
    assert load.lost == []
    assert {name: status[name]["missing"] for name in DIMENSIONS} == dict.fromkeys(DIMENSIONS, 0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_only_replica_dies_in_the_middle_of_a_call(ray_session: str, backend: str, tmp_path: Path) -> None:
    service = {"health_check_s": 1.0}
    config = marking(backend, options={"trap": str(tmp_path), "delay_s": 0.02}, service=service, deadline_s=40.0)
    with deployed(config) as (client, _):

        async def strike(load: Load) -> None:
            await load.more(8)
            (tmp_path / "die").touch()
            await load.more(20)

        load = Load(client)
        asyncio.run(load.during(strike))
        failures = asyncio.run(client.status())["mark"]["failures"]
    assert not (tmp_path / "die").exists()
    assert load.lost == []
    assert failures >= 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hanging_replica_is_passed_over_within_its_deadline(ray_session: str, backend: str, tmp_path: Path) -> None:
    deadline = 4.0
    config = marking(
        backend,
        2,
        options={"trap": str(tmp_path), "delay_s": 0.02},
        service={"health_check_s": 1.0},
        deadline_s=deadline,
    )
    with deployed(config) as (client, namespace):
        before = replica_pids(backend, namespace, "mark")

        async def strike(load: Load) -> None:
            await load.more(8)
            (tmp_path / "hang").touch()
            await load.more(8)
            while load.slowest_s < deadline:
                await asyncio.sleep(0.05)
            await load.more(8)
            await load.until(lambda found: found["mark"] == {"running": 2, "wanted": 2})

        load = Load(client)
        asyncio.run(load.during(strike))
        after = _settled(backend, namespace, before)
    assert load.lost == []
    # One deadline until it is given up; then the other replica answers at once.
    assert deadline <= load.slowest_s < 1.5 * deadline
    assert len(set(before) & set(after)) == 1  # the other one never stopped
    assert len(after) == 2  # and the one that hung has a successor


def _settled(backend: str, namespace: str, before: list[int], limit_s: float = 30.0) -> list[int]:
    """Processes once the replica that hung is no longer among them."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with suppress(RayActorError):
            found = replica_pids(backend, namespace, "mark")
            if len(found) == 2 and set(found) != set(before):
                return found
        time.sleep(0.5)
    raise AssertionError("the replica that hung is still there")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_raises_once_is_repeated(ray_session: str, backend: str, tmp_path: Path) -> None:
    with deployed(marking(backend, 2, options={"trap": str(tmp_path)})) as (client, _):
        (tmp_path / "raise").touch()
        sounds = question(0.3)
        answered(client.score_all_blocking(sounds, RATE, references())["mark"], sounds)
        assert asyncio.run(client.status())["mark"]["failures"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_queue_refuses_and_is_waited_for(ray_session: str, backend: str) -> None:
    config = marking(backend, options={"delay_s": 0.1}, service={"queue_limit": 2}, deadline_s=30.0)

    async def crowd(client: Any) -> list[dict[str, Any]]:
        return await asyncio.gather(*(client.score_all(question(k / 100), RATE, references()) for k in range(24)))

    with deployed(config) as (client, _):
        found = asyncio.run(crowd(client))
        failures = asyncio.run(client.status())["mark"]["failures"]
    for k, scores in enumerate(found):
        answered(scores["mark"], question(k / 100))
    assert failures > 0
    assert client.resting() == {"mark": 0}


@pytest.mark.parametrize("policy", ["drop", "mask"])
def test_nothing_but_numbers_reaches_the_advantages(ray_session: str, policy: Any) -> None:
    """Through the coordinator and the buffer, as in a run: scorers that answer wrongly, each in its own way."""
    # Wrong as a whole: nothing is left of it. Wrong in one sample: that one is missing.
    kept = {
        "well": MEMBERS, "nan": MEMBERS - 1, "infinite": MEMBERS - 1, "beyond": MEMBERS - 1, "shape": 0, "raise": 0,
        "nothing": 0, "number": 0, "text": 0, "list": 0, "integers": 0,
    }  # fmt: skip
    replicas: dict[str, list[Any]] = {how: [ray.remote(WrongScorer).options(num_cpus=0.01).remote(how)] for how in kept}
    plan = RunPlan(
        seed=11,
        iterations=1,
        algorithm=AlgorithmConfig(prompts=2, group_size=MEMBERS),
        rollout=RolloutConfig(num_cpus=0.1),
        weights=dict.fromkeys(kept, 1.0),
        missing=policy,
        max_missing_share=1.0,
    )
    names = ActorNames(f"wrong-{policy}", ray_session)
    client = partial(RewardClient, replicas, deadline_s=60.0)
    actors = launch(names, plan, make_prompts(4), FakeGenerator, client, BufferConfig())
    run = Run(actors, 1)
    try:
        run.begin()
        if policy == "drop":
            run.until(lambda: sum(run.get(actors.buffer.ledger.remote())["dropped"].values()) == 2)
            ledger = run.get(actors.buffer.ledger.remote())
            assert (ledger["accepted"], ledger["trained"], ledger["open"]) == (0, 0, 0)
            assert all(reason.startswith("missing:") for reason in ledger["dropped"])
            return
        batch = run.take(0)
        groups = batch.select(run.get(batch.refs))
        assert len(groups) == 2
        for group in groups:
            assert {how: int(np.isfinite(values).sum()) for how, values in group.rewards.items()} == kept
            table = torch.tensor(np.stack(list(group.rewards.values()), axis=1))[None]
            present = torch.isfinite(table)
            assert float(table[present].min()) >= 0.0
            assert float(table[present].max()) <= 1.0
            found = advantages(table, torch.ones(len(kept)), "per_reward", present)
            # One scorer gave four numbers in equal steps, and three gave the last three; nothing else has a say.
            whole, rest = 1 / 5**0.5, 1.5**0.5
            by_hand = np.array([-3 * whole, -whole - 3 * rest, whole, 3 * whole + 3 * rest])
            np.testing.assert_allclose(found[0], by_hand / by_hand.std(), atol=1e-6)
    finally:
        actors.stop()
        for (handle,) in replicas.values():
            ray.kill(handle)
