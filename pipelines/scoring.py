"""The scorers of a reward section for a command that is no training run."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cluster.config import RayConfig
from cluster.session import ray_session
from foundation.release import Release, is_release
from pipelines.conditions import feature_store
from pipelines.recipe import TrainRecipe
from rewards_service import backends, remote
from rewards_service.build import scorer_class
from rewards_service.config import RewardConfig, ScorerConfig
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


def completed(recipe: TrainRecipe, model: Path) -> RewardConfig:
    """The recipe's rewards with what its other sections know, where a scorer has such an option and is not told.

    store: the feature store, so that visual tokens which condition the model are not computed a second time for a
    reward. weights of synchformer: the release's own file. model: the file or folder that training starts from.
    """
    known: dict[str, Any] = {"store": feature_store(recipe).root}
    release = Release.find(model) if is_release(model) else None

    def filled(dimension: str, scorer: ScorerConfig) -> ScorerConfig:
        offered = dict(known)
        if scorer.scorer == "synchformer" and release is not None and release.synchformer is not None:
            offered["weights"] = str(release.synchformer)
        names = {field.name for field in fields(scorer_class(dimension, scorer))}
        new = {name: value for name, value in offered.items() if name in names and name not in scorer.options}
        return scorer.model_copy(update={"options": {**scorer.options, **new}})

    rewards = recipe.rewards
    return rewards.model_copy(
        update={
            "scorers": {name: filled(name, scorer) for name, scorer in rewards.scorers.items()},
            "judges": {name: filled(name, judge) for name, judge in rewards.judges.items()},
        }
    )
