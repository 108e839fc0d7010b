"""Real reward actors: started by name, killed mid-run, refused when they cannot start."""

import os
import signal
import uuid
from typing import Any

import numpy as np
import pytest
import ray

from rewards_service.config import RewardConfig
from rewards_service.errors import RewardConfigError, RewardError
from rewards_service.service.client import RewardClient
from rewards_service.service.deploy import ActorDeployment, connect, launch
from rewards_service.temporal import TemporalScorer
from tests.rewards_service.conftest import RATE, World


def only(dimension: str, **settings: object) -> RewardConfig:
    """A reward section with one dimension."""
    config = RewardConfig.model_validate({"scorers": {dimension: {"num_cpus": 0.01, **settings}}})
    return config.model_copy(update={"scorers": {dimension: config.scorers[dimension]}})


def deploy(config: RewardConfig, namespace: str | None = None, start_s: float = 120.0) -> ActorDeployment:
    deployment = launch(config.model_copy(update={"start_s": start_s}), namespace)
    deployment.await_ready()
    return deployment


def test_actors_score_like_the_scorer_and_survive_a_kill(ray_session: str, world: World) -> None:
    namespace = f"rewards-{uuid.uuid4().hex}"
    config = only("temporal", options={"tolerance_s": 0.05})
    deployment = deploy(config, namespace)
    replicas = deployment.replicas
    try:
        assert connect(config, namespace)["temporal"][0] == replicas["temporal"][0]
        client = RewardClient(connect(config, namespace), deadline_s=60)
        here = TemporalScorer(tolerance_s=0.05).score(world.sounds, RATE, world.references, detail=True)
        before = client.score_all_blocking(world.sounds, RATE, world.references, detail=True)["temporal"]
        np.testing.assert_allclose(before.values, here.values, atol=1e-5)
        assert before.measured == here.measured

        first: Any = ray.get(replicas["temporal"][0].pid.remote(), timeout=30)
        os.kill(first, signal.SIGKILL)
        after = client.score_all_blocking(world.sounds, RATE, world.references)["temporal"]
        assert not after.missing
        np.testing.assert_array_equal(after.values, before.values)
        health: Any = ray.get(replicas["temporal"][0].health.remote(), timeout=30)
        assert health["pid"] != first
        assert health["dimension"] == "temporal"
        assert health["samples"] == len(world.scenes)
    finally:
        deployment.stop()


def test_an_actor_that_cannot_start_says_why(ray_session: str, tmp_path: os.PathLike[str]) -> None:
    missing = os.path.join(tmp_path, "absent.safetensors")
    with pytest.raises(RewardError, match=r"reward-semantic-0 could not start: .*absent\.safetensors"):
        deploy(only("semantic", options={"weights": missing}), f"rewards-{uuid.uuid4().hex}")


def test_a_replica_without_resources_is_refused_in_time(ray_session: str) -> None:
    with pytest.raises(RewardError, match=r"reward-temporal-0 did not start within 1 s; Ray has .* free"):
        deploy(only("temporal", num_cpus=1000), f"rewards-{uuid.uuid4().hex}", start_s=1.0)


def test_a_wrong_option_is_refused_before_anything_starts() -> None:
    with pytest.raises(RewardConfigError, match="no option speed"):
        deploy(only("temporal", options={"speed": 1}))


def test_connecting_to_nothing_is_an_error(ray_session: str) -> None:
    with pytest.raises(RewardError, match="No temporal reward is running"):
        connect(only("temporal"), f"rewards-{uuid.uuid4().hex}")
