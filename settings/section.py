"""Base class of every configuration section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """An immutable, strictly checked part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
