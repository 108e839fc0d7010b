"""The scorers of a reward section for a command that is no training run."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.config import RayConfig
from cluster.session import ray_session
from foundation.release import Release, is_release
from pipelines.conditions import feature_store
from pipelines.recipe import TrainRecipe
from rewards_service import backends, remote
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
    """The recipe's rewards, synchformer told what other sections know, where its own options do not say it.

    store: the feature store, so that visual tokens which condition the model are not computed a second time for the
    reward. weights: the release's own file. model: the file or folder that training starts from.
    """
    known = {"store": feature_store(recipe).root}
    release = Release.find(model) if is_release(model) else None
    if release is not None and release.synchformer is not None:
        known["weights"] = str(release.synchformer)

    def filled(scorer: ScorerConfig) -> ScorerConfig:
        if scorer.scorer != "synchformer":
            return scorer
        return scorer.model_copy(update={"options": {**known, **scorer.options}})

    rewards = recipe.rewards
    return rewards.model_copy(
        update={
            "scorers": {name: filled(scorer) for name, scorer in rewards.scorers.items()},
            "judges": {name: filled(judge) for name, judge in rewards.judges.items()},
        }
    )
