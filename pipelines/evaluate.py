"""`prism evaluate`: a model on held-out clips, in the four rewards and in measures that are not rewarded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from foundation.build import load_foundation
from foundation.execution import execute
from pipelines.conditions import Conditioning, feature_store
from pipelines.data import training_data
from pipelines.heldout import HeldOutSet
from pipelines.recipe import TrainRecipe, find, find_model
from pipelines.scoring import completed, instruments
from rewards_service.judge import Judge
from settings.load import load


def evaluate(recipe_path: Path, overrides: Sequence[str], model: Path | None = None) -> dict[str, Any]:
    """Score a model, plain and with guidance; returns {"heldout", "guided", "measures"}. Raises PrismError."""
    recipe = load(TrainRecipe, recipe_path, overrides)
    torch.set_num_threads(recipe.learner.torch_threads)
    path = find_model(model or recipe.model)
    foundation = load_foundation(path, recipe.evaluation.device, recipe.encoding)
    execute(foundation.flow, recipe.execution)
    data = training_data(recipe, foundation, Console(stderr=True))
    judge = Judge.load(find(recipe.judge, "judge"))
    conditioning = Conditioning(foundation, recipe.planner.template, feature_store(recipe))
    with instruments(completed(recipe, path), recipe.ray) as found:
        held = HeldOutSet(
            foundation, data.heldout, found.scorers, recipe.evaluation, judge, conditioning, judges=found.judges
        )
        plain = held.score()
        guided = {f"{scale:g}": held.score(guidance=scale).summary() for scale in recipe.evaluation.guidance}
    measures = held.measures(plain)
    return {
        "clips": len(held),
        "heldout": plain.summary(),
        "guided": guided,
        "measures": measures.as_dict() if measures else None,
    }
