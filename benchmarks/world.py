"""What every variant is trained and judged on: the laptop recipe's start, prompts, held-out scenes and scorers."""

import hashlib
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from actors.messages import Prompt
from cot_service.build import build_planner
from foundation.build import Foundation, load_foundation
from pipelines.conditions import Conditioning
from pipelines.heldout import HeldOutSet
from pipelines.recipe import ROOT, TrainRecipe, find
from pipelines.run_folder import cache
from pipelines.segments import Segment, read_segments
from rewards_service.build import build_scorers
from rewards_service.scores import Scorer
from scenes import dataset
from settings import PrismError
from settings.load import load

LAPTOP = ROOT / "recipes" / "laptop.yaml"
Split = Literal["heldout", "tuning"]


@dataclass(frozen=True)
class World:
    """One process' copy of everything but the algorithm. held: scenes of `split`, which are never trained on."""

    recipe: TrainRecipe
    split: Split
    foundation: Foundation
    prompts: list[Prompt]
    held: HeldOutSet
    scorers: dict[str, Scorer]


def laptop(overrides: Sequence[str] = ()) -> TrainRecipe:
    """recipes/laptop.yaml with `key=value` overrides."""
    return load(TrainRecipe, LAPTOP, overrides)


def world(recipe: TrainRecipe, folder: Path, split: Split = "heldout") -> World:
    """Render, watch and encode all scenes once per folder; later calls, also of other processes, read them back.

    Raises PrismError when the recipe names clips of one's own: the comparisons are about the procedural scenes.
    """
    if recipe.data is not None:
        raise PrismError(f"The benchmarks run on procedural scenes, but data={recipe.data} was given; leave it out.")
    torch.set_num_threads(1)
    path = folder / f".world-{split}-{_key(recipe, split)}.pickle"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, _made(recipe, split))
    with path.open("rb") as file:
        found, held = pickle.load(file)
    held.scorers = build_scorers(recipe.rewards)  # as the code is now, not as it was when the scenes were encoded
    return World(recipe, split, held.foundation, found, held, held.scorers)


def _made(recipe: TrainRecipe, split: Split) -> tuple[list[Prompt], HeldOutSet]:
    foundation = load_foundation(find(recipe.model, "model"))
    training = _segments(recipe, foundation, "prompts", recipe.scenes.prompts)
    judged = _segments(recipe, foundation, split, recipe.scenes.heldout)
    held = HeldOutSet(foundation, judged, build_scorers(recipe.rewards), recipe.evaluation)
    held.sounds = []  # only measures without a reward compare with the true sound; 60 MB
    return Conditioning(foundation).prompts(training), held


def _segments(recipe: TrainRecipe, foundation: Foundation, split: str, count: int) -> list[Segment]:
    folder = cache(recipe) / dataset.folder_name(split, count, recipe.scenes)
    records = dataset.build(folder, split, count, recipe.scenes)
    found, rejected = read_segments(
        records, build_planner(recipe.planner), foundation.seconds, foundation.codec.sample_rate
    )
    if rejected:
        raise PrismError(f"{len(rejected)} rendered scenes cannot be read, first {rejected[0]}; remove {folder}.")
    return found


def _key(recipe: TrainRecipe, split: str) -> str:
    """Changes with whatever changes the prompts, the scenes, their references or the scorers."""
    parts: list[Any] = [split, dataset.VERSION, hashlib.sha256(find(recipe.model, "model").read_bytes()).hexdigest()]
    parts += [s.model_dump_json() for s in (recipe.scenes, recipe.planner, recipe.evaluation, recipe.rewards)]
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:12]


def _write(path: Path, value: Any) -> None:
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_bytes(pickle.dumps(value))
    os.replace(partial, path)
