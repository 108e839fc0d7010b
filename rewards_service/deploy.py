"""Starting the reward replicas as named Ray actors, and finding them again by name."""

import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError

from rewards_service.actor import RewardActor
from rewards_service.build import build_scorer
from rewards_service.config import RewardConfig
from rewards_service.errors import RewardError

Replicas = dict[str, list[ActorHandle]]


def replica_name(dimension: str, index: int) -> str:
    """Name of a replica inside the run's namespace."""
    return f"reward-{dimension}-{index}"


def deploy(config: RewardConfig, namespace: str | None = None, start_s: float = 120.0, threads: int = 1) -> Replicas:
    """Start every dimension's replicas in the running Ray session and wait until each has scored once.

    Raises RewardError when one does not start within `start_s` seconds, with its reason; the others are then stopped.
    """
    replicas = launch(config, namespace, threads)
    await_ready(replicas, start_s)
    return replicas


def launch(config: RewardConfig, namespace: str | None = None, threads: int = 1) -> Replicas:
    """Begin to start every dimension's replicas; `await_ready` waits for them, and other work fits in between.

    A replica is restarted for ever; a call in flight at its death is not repeated by Ray (the client decides).
    Raises RewardConfigError for a wrong option, before any process starts.
    """
    for dimension, scorer in config.scorers.items():
        build_scorer(dimension, scorer)
    replicas: Replicas = {}
    for dimension, scorer in config.scorers.items():
        replicas[dimension] = [
            _remote(scorer.num_cpus, scorer.num_gpus, replica_name(dimension, index), namespace).remote(
                dimension, scorer, threads
            )
            for index in range(scorer.replicas)
        ]
    return replicas


def await_ready(replicas: Replicas, start_s: float = 120.0) -> None:
    """Wait until every replica has scored once.

    Raises RewardError when one has not after `start_s` seconds, with its reason; all are then stopped.
    """
    deadline = time.monotonic() + start_s
    waiting = {handle.health.remote(): name for name, handle in _named(replicas)}
    try:
        for ref, name in waiting.items():
            _await_start(ref, name, deadline, start_s)
    except RewardError:
        stop(replicas)
        raise


def connect(config: RewardConfig, namespace: str | None = None) -> Replicas:
    """The replicas that `deploy` started, by name. Raises RewardError when one does not exist."""
    replicas: Replicas = {}
    for dimension, scorer in config.scorers.items():
        try:
            names = [replica_name(dimension, index) for index in range(scorer.replicas)]
            replicas[dimension] = [ray.get_actor(name, namespace=namespace) for name in names]
        except ValueError as error:
            raise RewardError(f"No {dimension} reward is running here ({error}); deploy the rewards first.") from error
    return replicas


def stop(replicas: Replicas) -> None:
    """End all replicas for good."""
    for _, handle in _named(replicas):
        ray.kill(handle, no_restart=True)


def _remote(num_cpus: float, num_gpus: float, name: str, namespace: str | None) -> Any:
    options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "name": name}
    options |= {"max_restarts": -1, "max_task_retries": 0}
    return ray.remote(RewardActor).options(**options, **({"namespace": namespace} if namespace else {}))


def _named(replicas: Replicas) -> list[tuple[str, ActorHandle]]:
    return [(replica_name(d, i), handle) for d, handles in replicas.items() for i, handle in enumerate(handles)]


def _await_start(ref: Any, name: str, deadline: float, start_s: float) -> None:
    try:
        ray.get(ref, timeout=max(deadline - time.monotonic(), 0.1))
    except GetTimeoutError as error:
        raise RewardError(
            f"{name} did not start within {start_s:.0f} s; Ray has {ray.available_resources()} free for it"
        ) from error
    except RayError as error:
        cause = str(error).strip().splitlines()[-1]  # a Ray error ends with the exception that the actor met
        raise RewardError(f"{name} could not start: {cause}") from error
