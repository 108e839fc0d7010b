"""The reward section of a recipe."""

from typing import Any, Literal

from pydantic import Field, model_validator

from settings import Section

Dimension = Literal["semantic", "temporal", "aesthetic", "spatial"]
DIMENSIONS: tuple[Dimension, ...] = ("semantic", "temporal", "aesthetic", "spatial")


class ScorerConfig(Section):
    """One reward dimension.

    weight: its share in the advantage; 0 measures without training on it. replicas: how many actors serve it.
    num_cpus, num_gpus: what each asks Ray for. options: constants of the scorer (the fields of its class).
    """

    weight: float = Field(default=1.0, ge=0)
    replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    options: dict[str, Any] = {}


def _every_dimension() -> dict[Dimension, ScorerConfig]:
    return {dimension: ScorerConfig() for dimension in DIMENSIONS}


class RewardConfig(Section):
    """The four dimensions and how the service behaves when one does not answer.

    deadline_s: limit for one call, retry not included. missing: "drop" leaves the whole group out when a score is
    missing, "mask" trains on the other dimensions. max_missing_share: above this share of missing scores in an
    iteration the run stops. sample_rate: rate in Hz at which waveforms are handed over.
    """

    scorers: dict[Dimension, ScorerConfig] = Field(default_factory=_every_dimension)
    deadline_s: float = Field(default=30.0, gt=0)
    missing: Literal["drop", "mask"] = "drop"
    max_missing_share: float = Field(default=0.5, ge=0, le=1)
    sample_rate: int = Field(default=16000, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """A recipe names only the dimensions it changes; the others keep their defaults."""
        if isinstance(values, dict) and isinstance(values.get("scorers"), dict):
            values = values | {"scorers": _every_dimension() | values["scorers"]}
        return values

    @property
    def weights(self) -> dict[str, float]:
        """Weight per dimension."""
        return {dimension: scorer.weight for dimension, scorer in self.scorers.items()}
