"""The reward section of a recipe."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, field_serializer, model_validator

from settings import Section

DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial")
"""The rewards that a recipe has without naming any."""
ROOT = Path(__file__).resolve().parent.parent


def _named(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "total":
        raise ValueError(f"{name!r} cannot name a reward; expected small letters, digits and _, and not total")
    return name


Dimension = Annotated[str, AfterValidator(_named)]


def _located(scorer: str) -> str:
    """`file.py:Class` with the file's whole path, from the working directory or else the checkout.

    Replicas have working directories of their own, and a run may be resumed from another.
    """
    name, _, attribute = scorer.rpartition(":")
    if not name.endswith(".py"):
        return scorer
    path = next((p for p in (Path(name), ROOT / name) if p.is_file()), None)
    return scorer if path is None else f"{path.resolve()}:{attribute}"


class ServiceConfig(Section):
    """How a dimension serves requests on a cluster (rewards.backend: serve).

    target_ongoing_requests: per replica; above it replicas are added, up to the scorer's max_replicas. upscale_delay_s,
    downscale_delay_s: how long load must have changed before their number does. batch_requests: requests that may be
    joined into one call of the scorer; batch_wait_s: how long the first of them waits for others. queue_limit: requests
    waiting for a replica above which others are refused at once (and retried). health_check_s: how often a replica is
    asked whether it is stuck.
    """

    target_ongoing_requests: float = Field(default=2.0, gt=0)
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=60.0, ge=0)
    batch_requests: int = Field(default=1, ge=1)
    batch_wait_s: float = Field(default=0.01, ge=0)
    queue_limit: int = Field(default=256, ge=1)
    health_check_s: float = Field(default=5.0, gt=0)


class ScorerConfig(Section):
    """One reward dimension.

    scorer: a name of `rewards_service.build.SCORERS`, `package.module:Class` or `file.py:Class`; the embedded scorer
    of the dimension when empty. options: its constants (the fields of its class).
    weight: its share in the advantage; 0 measures without training on it.
    replicas: how many actors serve it, at the start; max_replicas: up to how many Ray Serve may add under load.
    num_cpus, num_gpus, torch_threads: of each.
    service: see `ServiceConfig`. image: container image with the scorer's packages, instead of installing them.
    """

    scorer: Annotated[str, AfterValidator(_located)] = ""
    weight: float = Field(default=1.0, ge=0)
    options: dict[str, Any] = {}
    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    torch_threads: int = Field(default=1, ge=1)
    service: ServiceConfig = ServiceConfig()
    image: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> "ScorerConfig":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, fewer than replicas, {self.replicas}")
        return self


def _every_dimension() -> dict[str, ScorerConfig]:
    return {dimension: ScorerConfig() for dimension in DIMENSIONS}


class RewardConfig(Section):
    """The dimensions and how the service behaves when one does not answer.

    scorers: by dimension. The four of `DIMENSIONS` are there unless set to null; others need a `scorer`.
    judges: by the dimension they watch: scorers that are asked about held-out clips only and never trained on.
    backend: "actors" starts plain Ray actors; "serve" makes each dimension a Ray Serve application of its own.
    packages: how scorers get packages that must not meet the main environment's: "prepared" uses a virtual environment
    on the machine and makes it when it is missing, "uv" and "pip" let Ray install them on every node.
    deadline_s: limit for one call, retry not included. start_s: limit for the start of all replicas. missing: "drop"
    leaves the whole group out when a score is missing, "mask" trains on the other dimensions. max_missing_share: above
    this share of missing scores of a dimension in an iteration the run stops. sample_rate: rate in Hz at which
    waveforms are handed over where nothing else decides it.
    """

    scorers: dict[Dimension, ScorerConfig] = Field(default_factory=_every_dimension)
    judges: dict[Dimension, ScorerConfig] = {}
    backend: Literal["actors", "serve"] = "actors"
    packages: Literal["prepared", "uv", "pip"] = "prepared"
    deadline_s: float = Field(default=30.0, gt=0)
    start_s: float = Field(default=120.0, gt=0)
    missing: Literal["drop", "mask"] = "drop"
    max_missing_share: float = Field(default=0.5, ge=0, le=1)
    sample_rate: int = Field(default=16000, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """A recipe names only the dimensions it changes; the others keep their defaults."""
        if isinstance(values, dict) and isinstance(values.get("scorers"), dict):
            named = _every_dimension() | values["scorers"]
            values = values | {"scorers": {name: scorer for name, scorer in named.items() if scorer is not None}}
        return values

    @field_serializer("scorers", mode="wrap")
    def _told(self, scorers: dict[str, ScorerConfig], plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With null for those of the four that were left out, so that what is read back is the same."""
        return {**dict.fromkeys(d for d in DIMENSIONS if d not in scorers), **plain(scorers)}

    @model_validator(mode="after")
    def _served(self) -> "RewardConfig":
        if not self.scorers:
            raise ValueError("no dimension is left in rewards.scorers; keep at least one")
        nameless = [
            name for name, s in {**self.judges, **self.scorers}.items() if not s.scorer and name not in DIMENSIONS
        ]
        nameless += [name for name, judge in self.judges.items() if not judge.scorer and name not in nameless]
        if nameless:
            raise ValueError(f"{', '.join(nameless)} needs a scorer, as in scorer: my_reward.py:MyReward")
        growing = [name for name, s in self.scorers.items() if s.max_replicas and s.max_replicas > s.replicas]
        if growing and self.backend == "actors":
            raise ValueError(
                f"max_replicas of {', '.join(growing)} needs rewards.backend: serve; actors do not scale with load"
            )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weight per dimension."""
        return {dimension: scorer.weight for dimension, scorer in self.scorers.items()}

    @property
    def deployed(self) -> dict[str, ScorerConfig]:
        """Everything that has replicas: the scorers by dimension, and the judges as `judge_DIMENSION`."""
        return {**self.scorers, **{f"judge_{name}": judge for name, judge in self.judges.items()}}
