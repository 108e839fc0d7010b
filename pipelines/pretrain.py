"""`prism pretrain`: the semantic encoder, the judge, and the flow model that reinforcement learning starts from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cot_service.analysis_planner import CLEAN
from cot_service.build import build_planner
from cot_service.planner import Planner
from foundation.build import Foundation
from foundation.embedded import EmbeddedEncoder
from foundation.encoders import Encoders
from foundation.model import FlowModel
from foundation.vocabulary import Vocabulary
from foundation.vocoder import Vocoder
from media.manifest import ClipRecord
from pipelines.conditions import pictures, sections
from pipelines.recipe import PretrainRecipe
from pipelines.segments import Segment, read_segments
from rewards_service import contrastive, judge
from scenes import dataset
from scenes.config import ScenesConfig
from scenes.world import SECONDS
from settings import PrismError
from settings.load import load
from trainer.pretrain import Examples, fit

INSTRUMENT_SPLITS = ("semantic_encoder", "judge")


def pretrain(recipe_path: Path, overrides: Sequence[str]) -> Path:
    """Make `embedded.safetensors`, `semantic_encoder.safetensors` and `judge.safetensors`; returns their folder.

    Raises ConfigError, CheckpointError and MediaError.
    """
    recipe = load(PretrainRecipe, recipe_path, overrides)
    torch.set_num_threads(1)  # two threads do not help at these sizes, and one is reproducible
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for split in INSTRUMENT_SPLITS:
            _instrument(recipe, split, progress)
        _flow_model(recipe, progress)
    return recipe.out


def scene_records(
    split: str, count: int, config: ScenesConfig, cache: Path, progress: Progress, clean_text: str | None = None
) -> list[ClipRecord]:
    """Scenes of a split as files, rendered once and found again later."""
    folder = cache / dataset.folder_name(split, count, config)
    task = progress.add_task(f"scenes: {split}", total=count)
    records = dataset.build(
        folder, split, count, config, clean_text, lambda done, total: progress.update(task, completed=done, total=total)
    )
    progress.update(task, completed=count)
    return records


def _instrument(recipe: PretrainRecipe, split: str, progress: Progress) -> None:
    config, codec = recipe.instruments, Vocoder()
    records = scene_records(split, config.scenes, recipe.scenes, recipe.cache, progress)
    found = _read(records, build_planner(recipe.planner), codec.sample_rate)
    clean = np.stack([s.clip.waveform for s in found if s.clip.waveform is not None])
    # Half of what they hear comes through the codec, since that is all a model can make.
    coded = codec.decode(codec.encode(torch.from_numpy(clean))).numpy()
    heard = np.concatenate([clean, coded])
    labels = [s.label or "" for s in found] * 2
    task = progress.add_task(f"fit: {split}", total=1)
    if split == "judge":
        made = judge.fit(heard, labels, sample_rate=codec.sample_rate, seed=config.seed + 1)
    else:
        texts = [s.plan.semantic for s in found] * 2
        made = contrastive.fit(
            heard, texts, sample_rate=codec.sample_rate, seed=config.seed, labels=labels, steps=config.steps
        )
    recipe.out.mkdir(parents=True, exist_ok=True)
    made.save(recipe.out / f"{split}.safetensors")
    progress.update(task, completed=1)


def _flow_model(recipe: PretrainRecipe, progress: Progress) -> None:
    codec, planner = Vocoder(), build_planner(recipe.planner)
    config, count = recipe.scenes, recipe.scenes.pretrain
    records = scene_records("pretrain", count, config, recipe.cache, progress, clean_text=CLEAN)
    heard = dataset.described("pretrain", count, config, CLEAN)
    encoded, plans, frames = [], [], []
    task = progress.add_task("watch and listen", total=len(records))
    for done, (record, aesthetic) in enumerate(zip(records, heard, strict=True), start=1):
        found = _read([record], planner, codec.sample_rate)
        plans.append(sections(replace(found[0].plan, aesthetic=aesthetic)))
        frames.append(pictures(found, recipe.encoders.fps, as_seen=True)[0])
        sound = found[0].clip.waveform
        assert sound is not None, "scenes are written with sound"
        encoded.append(codec.encode(torch.from_numpy(sound)[None])[0])
        progress.update(task, completed=done)
    vocabulary = Vocabulary.learn(plans, recipe.encoders.per_section)
    tokens = torch.tensor([vocabulary.tokens(plan) for plan in plans])
    torch.manual_seed(recipe.pretrain.seed)
    flow, encoders = FlowModel(recipe.model), Encoders(recipe.encoders, len(vocabulary))
    task = progress.add_task("flow matching", total=recipe.pretrain.steps)
    fit(
        flow,
        encoders,
        Examples(torch.from_numpy(np.stack(frames)), tokens, torch.stack(encoded)),
        recipe.pretrain,
        lambda step, loss: progress.update(task, completed=step, description=f"flow matching, loss {loss:.3f}"),
    )
    made = {"recipe": recipe.model_dump(mode="json", exclude={"out", "cache"})}
    Foundation(flow, EmbeddedEncoder(encoders.eval(), vocabulary), codec, SECONDS, made).save(
        recipe.out / "embedded.safetensors"
    )


def _read(records: Sequence[ClipRecord], planner: Planner, sample_rate: int) -> list[Segment]:
    """Segments of rendered scenes; here an unreadable file is an error, since this program wrote it."""
    found, rejected = read_segments(records, planner, SECONDS, sample_rate)
    if rejected:
        raise PrismError(
            f"A rendered scene cannot be read back: {rejected[0].reason} Remove the folder of {rejected[0].path} and "
            "run again."
        )
    return found
