"""What a recipe of `prism generate` may say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from actors.soundtrack_config import SoundtrackConfig
from cluster.config import RayConfig
from cot_service.config import PlannerConfig
from foundation.execution import ExecutionConfig
from foundation.generate import SamplerConfig
from pipelines.joining import Crossfade
from settings import PrismError, Section
from settings.load import assign, check, read_yaml


class GenerateRecipe(Section):
    """Soundtracks for videos. The defaults are what `prism generate` does without a recipe.

    model: a checkpoint, a run folder or the folder of a release; the shipped model when absent. device: cpu, cuda,
    cuda:N, or auto for a GPU where there is one. execution: precision, compilation. overlap_seconds: shared by
    neighbouring windows of a video longer than the model's clips. crossfade: see `pipelines.joining`.
    batch: windows of one video evaluated together on a GPU; a CPU then takes them one by one, since the number of rows
    changes the last bits of a matrix product there. null takes all windows of an embedded model together.
    features: folder or URL where a released model's features are kept. torch_threads: null leaves torch's choice.
    pool: how many videos at once, in actors on Ray.
    """

    model: Path | None = None
    device: str = "cpu"
    seed: int = 0
    sampler: SamplerConfig = SamplerConfig()
    execution: ExecutionConfig = ExecutionConfig()
    planner: PlannerConfig = PlannerConfig()
    overlap_seconds: float = Field(default=0.25, gt=0)
    crossfade: Crossfade = "linear"
    batch: int | None = Field(default=None, ge=1)
    features: str | None = None
    torch_threads: int | None = Field(default=None, ge=1)
    pool: SoundtrackConfig = SoundtrackConfig()
    ray: RayConfig = RayConfig()

    def on(self) -> torch.device:
        """The device. Raises PrismError when there is none of that name."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise PrismError(f"device={name} is not one torch knows; use cpu, cuda, cuda:N or auto.") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise PrismError(
                f"device={name} was asked for, but torch {torch.__version__} sees no GPU; use cpu or auto."
            )
        return device


def resolve(
    recipe: Path | None, overrides: Sequence[str] = (), options: dict[str, Any] | None = None
) -> GenerateRecipe:
    """A recipe with `key=value` overrides and then options (dotted key: value; None leaves the recipe's) applied.

    Raises ConfigError.
    """
    raw = {} if recipe is None else read_yaml(recipe)
    for text in overrides:
        assign(raw, text, GenerateRecipe)
    for key, value in (options or {}).items():
        if value is not None:
            *parents, last = key.split(".")
            node = raw
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
    return check(GenerateRecipe, raw, source=str(recipe or "the command line"))
