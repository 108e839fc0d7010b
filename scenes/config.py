"""Configuration of the procedural world."""

from pydantic import Field

from scenes.corruption import CorruptionConfig
from settings import Section


class ScenesConfig(Section):
    """How many scenes each split holds and from which seed they are drawn."""

    seed: int = 0
    pretrain: int = Field(default=3072, ge=1)
    prompts: int = Field(default=192, ge=1)
    heldout: int = Field(default=128, ge=1)
    corruption: CorruptionConfig = CorruptionConfig()
