"""The two ways a reward section is deployed, behind one face."""

from rewards_service.config import RewardConfig
from rewards_service.service import deploy
from rewards_service.service.client import Fleet, RewardClient
from rewards_service.service.deploy import Deployment


def launch(config: RewardConfig, namespace: str) -> Deployment:
    """Begin to start every dimension's replicas in the running Ray. namespace: of the run, by which `fleet` finds them.

    Raises RewardConfigError for a wrong scorer or option, before any process starts, and RewardError when a scorer's
    own environment cannot be made.
    """
    if config.backend == "serve":
        from rewards_service.service import serving  # ray.serve costs two seconds to import

        return serving.launch(config, namespace)
    return deploy.launch(config, namespace)


def fleet(config: RewardConfig, namespace: str) -> Fleet:
    """What `launch` started, as a client sees it. Raises RewardError when it is not there."""
    if config.backend == "serve":
        from rewards_service.service import serving

        return serving.ServeFleet(config, namespace)
    return deploy.ActorFleet(config, namespace)


def connect(config: RewardConfig, namespace: str) -> RewardClient:
    """A client of what `launch` started. Raises RewardError when it is not there."""
    return RewardClient.of(fleet(config, namespace), config.deadline_s)
