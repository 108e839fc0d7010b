"""The scorers of a reward section for a command that is no training run."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.config import RayConfig
from cluster.session import ray_session
from rewards_service import backends, remote
from rewards_service.config import RewardConfig
from rewards_service.scores import Scorer


@dataclass(frozen=True)
class Instruments:
    """Scorers by dimension, and judges by the dimension they watch."""

    scorers: Mapping[str, Scorer]
    judges: Mapping[str, Scorer]


@contextmanager
def instruments(config: RewardConfig, ray: RayConfig) -> Iterator[Instruments]:
    """Everything that a reward section scores with. Light scorers live in this process; for others Ray is started or
    joined and their replicas deployed for the time of the block.

    Raises RewardError, RewardConfigError and SessionError.
    """
    if not remote.needs_replicas(config):
        yield Instruments(remote.scorers(config, None), remote.judges(config, None))
        return
    with ray_session(ray) as session:
        namespace = f"{session.namespace}-{secrets.token_hex(4)}"
        deployment = backends.launch(config, namespace)
        deployment.await_ready()
        try:
            yield Instruments(remote.scorers(config, namespace), remote.judges(config, namespace))
        finally:
            deployment.stop()
