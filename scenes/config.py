"""Configuration of the procedural world."""

from pydantic import Field

from scenes.corruption import CorruptionConfig
from settings import Section


class ScenesConfig(Section):
    """How many scenes each split holds and from which seed they are drawn.

    quiet: share of the pre-training scenes in which nothing hits, so that the model learns to be silent.
    """

    seed: int = 0
    pretrain: int = Field(default=3072, ge=1)
    prompts: int = Field(default=192, ge=1)
    heldout: int = Field(default=128, ge=1)
    quiet: float = Field(default=0.06, ge=0, le=1)
    corruption: CorruptionConfig = CorruptionConfig()
