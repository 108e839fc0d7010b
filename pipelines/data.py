"""The clips of a training run: procedural scenes, or a user's own videos."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from cot_service.build import build_planner
from foundation.build import Foundation
from media.manifest import ClipRecord, Rejected, read_manifest, scan_folder
from pipelines.conditions import unknown_words
from pipelines.recipe import TrainRecipe
from pipelines.run_folder import cache
from pipelines.segments import Segment, read_segments
from scenes import dataset
from settings import PrismError


@dataclass(frozen=True)
class TrainingData:
    """Segments to train on and segments to judge on; no video is in both."""

    prompts: list[Segment]
    heldout: list[Segment]
    rejected: list[Rejected]
    notes: list[str]


def training_data(recipe: TrainRecipe, foundation: Foundation, console: Console) -> TrainingData:
    """Read or render all clips and write their plans. Raises PrismError when too few are usable."""
    rate = foundation.codec.sample_rate
    planner = build_planner(recipe.planner)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        if recipe.data is None:
            parts, rejected = [_scenes(recipe, split, progress) for split in ("prompts", "heldout")], []
        else:
            parts, rejected = _own(recipe, recipe.data)
        found = []
        for name, records in zip(("prompts", "held-out clips"), parts, strict=True):
            task = progress.add_task(f"watch {name}", total=len(records))
            segments, failed = read_segments(
                records, planner, foundation.seconds, rate, lambda done, t=task: progress.update(t, completed=done)
            )
            found.append(segments)
            rejected = rejected + failed
    if not found[0] or len(found[1]) < 2:
        reasons = "; ".join(f"{r.path}: {r.reason}" for r in rejected[:5])
        source = recipe.data or "The scenes section"
        raise PrismError(
            f"{source} gives {len(found[0])} clips to train on and {len(found[1])} to judge on; expected at least 1 "
            f"and 2 (clips of {foundation.seconds:g} s). {reasons}"
        )
    return TrainingData(found[0], found[1], rejected, _notes(found[0] + found[1], foundation))


def _scenes(recipe: TrainRecipe, split: str, progress: Progress) -> list[ClipRecord]:
    count = recipe.scenes.prompts if split == "prompts" else recipe.scenes.heldout
    folder = cache(recipe) / dataset.folder_name(split, count, recipe.scenes)
    task = progress.add_task(f"render {split}", total=count)
    return dataset.build(
        folder, split, count, recipe.scenes, on_progress=lambda done, _: progress.update(task, completed=done)
    )


def _own(recipe: TrainRecipe, path: Path) -> tuple[list[list[ClipRecord]], list[Rejected]]:
    """A user's videos, split by video; a manifest's own split column wins."""
    rejected: list[Rejected] = []
    if path.is_file():
        records = read_manifest(path)
    else:
        records, rejected = scan_folder(path)
    held = [r for r in records if r.split == "heldout"]
    if held:
        return [[r for r in records if r.split != "heldout"], held], rejected
    if len(records) < 2:
        raise PrismError(
            f"{path} holds {len(records)} usable videos; expected at least 2, one to train on and one to judge on."
        )
    order = np.random.default_rng([recipe.seed, 17]).permutation(len(records))
    count = min(max(1, round(recipe.heldout_share * len(records))), len(records) - 1)
    chosen = {int(k) for k in order[:count]}
    parts = [[r for k, r in enumerate(records) if (k in chosen) == judged] for judged in (False, True)]
    return parts, rejected


def _notes(found: list[Segment], foundation: Foundation) -> list[str]:
    """What the user should know about these clips."""
    notes = []
    for name, what in (("events", "impact times"), ("positions", "positions")):
        seen = sum(segment.reference.origin.get(name) == "picture" for segment in found)
        if seen:
            notes.append(
                f"{seen} of {len(found)} clips have no known {what}: they are judged by what the picture shows."
            )
    silent = sum(not segment.caption for segment in found)
    if silent:
        notes.append(f"{silent} of {len(found)} clips have no caption: nothing says what they sound like.")
    unknown = sorted({word for s in found if s.caption for word in unknown_words(foundation, s.caption)})
    if unknown:
        notes.append(f"Caption words the text encoder never saw: {', '.join(unknown[:12])}.")
    return notes
