"""`prism finetune-vae`: the released autoencoder on one's own sounds, the optional first stage of PrismAudio."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cluster.config import RayConfig
from foundation.flat import FLOW, VAE_PREFIXES, read_flat, vae_names, write_flat
from foundation.release import Release
from media.errors import ManifestError
from media.manifest import read_manifest
from pipelines import run_folder
from pipelines.convert import LIGHTNING, convert
from pipelines.pretrain import scene_records
from pipelines.recipe import find
from pipelines.run_folder import RunConfig, RunFolder
from pipelines.stage import StepsView, ray_for
from pipelines.train import StopRequest
from scenes.config import ScenesConfig
from settings import PrismError
from settings.load import load
from trainer.autoencoder import AutoencoderConfig
from trainer.autoencoder_loop import AutoencoderLoop, fit, started
from trainer.config import LearnerConfig
from trainer.crops import ReaderConfig
from trainer.loop import Outcome

FILES, VAE, WHOLE = "sounds.json", "vae.ckpt", "prismaudio.ckpt"
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".mov", ".mkv", ".webm")


class VaeRecipe(RunConfig):
    """Fine-tuning of the autoencoder.

    model: a release folder, or a file that holds an
    autoencoder. data: a folder of sounds or videos, or a Parquet manifest; without it, `scenes.pretrain` procedural
    scenes. heldout: files to measure with. whole: also write prismaudio.ckpt, the release's flow model with the new
    autoencoder. It fits at once where training.train_encoder is off; otherwise the flow model has to learn the new
    latents first. training, learner, readers: see `trainer`; learner.iterations counts steps of either side.
    """

    seed: int = 0
    model: Path
    data: Path | None = None
    heldout: NonNegativeInt = 16
    whole: bool = False
    scenes: ScenesConfig = ScenesConfig(pretrain=32)
    training: AutoencoderConfig = AutoencoderConfig()
    readers: ReaderConfig = ReaderConfig()
    learner: LearnerConfig = Field(default=LearnerConfig(iterations=500_000, checkpoint_every=5000, eval_every=5000))
    ray: RayConfig = RayConfig()


def finetune_vae(
    recipe_path: Path, overrides: Sequence[str], resume: bool = False, console: Console | None = None
) -> RunFolder:
    """Run a recipe, or continue the run of its name (else the latest); returns the run's folder.

    The folder gets vae.ckpt with the averaged weights in the layout of the released one. A resumed run uses the recipe
    and the files it was started with; only `learner.iterations` of the one given now applies.
    Raises PrismError in its many forms.
    """
    console = console or Console()
    recipe = load(VaeRecipe, recipe_path, overrides)
    if resume:
        folder = run_folder.existing(recipe)
        recipe = run_folder.continued(folder, recipe)
    else:
        recipe = recipe.model_copy(update={"model": find(recipe.model, "release or autoencoder")})
        _require_model(recipe)
        folder = run_folder.create(recipe)
    console.print(f"Run folder: {folder.path}", highlight=False, soft_wrap=True)
    torch.set_num_threads(recipe.learner.torch_threads)
    if not (folder.path / FILES).exists():
        _list_sounds(recipe, folder)
    view = StepsView("autoencoder", recipe.learner.iterations, console)
    with ray_for(recipe.learner, recipe.ray), StopRequest(console).listening() as stop, view:
        loop = _loop(recipe, folder)
        outcome = fit(replace(loop, on_step=_Found(view).update, stop=stop))
    _finish(recipe, folder, loop, outcome, console)
    return folder


def _require_model(recipe: VaeRecipe) -> None:
    """Raise PrismError, before a run folder is made, unless what is asked for can be made of `model`."""
    path = _codec_path(recipe)
    if not vae_names(read_flat(path))[1]:
        raise PrismError(f"{path} holds no autoencoder; name a release, or its vae.ckpt, with model=PATH.")
    if recipe.whole and not any(name.startswith(FLOW) for name in read_flat(_flow_path(recipe))):
        raise PrismError(f"whole: true needs a flow model, but {recipe.model} holds none; name the release's folder.")


def _flow_path(recipe: VaeRecipe) -> Path:
    return Release.find(recipe.model).model if recipe.model.is_dir() else recipe.model


def _codec_path(recipe: VaeRecipe) -> Path:
    if not recipe.model.is_dir():
        return recipe.model
    release = Release.find(recipe.model)
    return release.vae or release.model


def _list_sounds(recipe: VaeRecipe, folder: RunFolder) -> None:
    """Which files train and which measure, drawn by the seed, in the run folder."""
    files = _sounds(recipe)
    order = np.random.default_rng(recipe.seed).permutation(len(files))
    heldout = min(recipe.heldout, len(files) - 1)
    lists = {
        "heldout": sorted(files[i] for i in order[:heldout]),
        "training": sorted(files[i] for i in order[heldout:]),
    }
    (folder.path / FILES).write_text(json.dumps(lists, indent=1), encoding="utf-8")


def _sounds(recipe: VaeRecipe) -> list[str]:
    """Absolute paths of all sounds. Raises ManifestError when there are none."""
    if recipe.data is None:
        count, cache = recipe.scenes.pretrain, run_folder.cache(recipe)
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as progress:
            return [record.uri for record in scene_records("vae", count, recipe.scenes, cache, progress)]
    data = find(recipe.data, "folder of sounds")
    if not data.is_dir():
        return [str(Path(record.uri).resolve()) for record in read_manifest(data)]
    found = sorted(str(p) for p in data.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise ManifestError(data, f"holds no sound; put files ending in {', '.join(SUFFIXES)} there.")
    return found


def _loop(recipe: VaeRecipe, folder: RunFolder) -> AutoencoderLoop:
    lists = json.loads((folder.path / FILES).read_text(encoding="utf-8"))
    return AutoencoderLoop(
        seed=recipe.seed,
        codec_path=str(_codec_path(recipe)),
        run_dir=str(folder.path),
        sounds=tuple(lists["training"]),
        training=recipe.training,
        learner=recipe.learner,
        heldout=tuple(lists["heldout"]),
        readers=recipe.readers,
    )


class _Found:
    """What a step found, in a line beside the bar."""

    def __init__(self, steps: StepsView):
        self._steps = steps
        self._latest: dict[str, float] = {}

    def update(self, record: dict[str, Any]) -> None:
        """Show one step."""
        if record["turn"] == "autoencoder":
            self._latest |= {name: record[name] for name in ("spectral", "kl", "matching") if name in record}
        else:
            self._latest["discriminator"] = record["loss"]
        if "validation" in record:
            self._latest["held out"] = record["validation"]["spectral"]
        found = " ".join(f"{name} {value:.3f}" for name, value in self._latest.items())
        self._steps.show(record["version"], found)


def _finish(recipe: VaeRecipe, folder: RunFolder, loop: AutoencoderLoop, outcome: Outcome, console: Console) -> None:
    """Write the averaged autoencoder in the released layouts, and the numbers."""
    learner = started(loop)
    with learner.ema.applied(learner.parameters["autoencoder"]):
        write_flat(folder.path / VAE, learner.codec.official_state(LIGHTNING), key="state_dict")
    if recipe.whole:
        (folder.path / WHOLE).unlink(missing_ok=True)
        convert(_flow_path(recipe), folder.path / WHOLE, vae=folder.path / VAE)
    records = loop.journal.records()
    measured = [record["validation"] for record in records if "validation" in record]
    spectral = [record["spectral"] for record in records if "spectral" in record]
    summary = {
        "name": folder.name,
        "steps": outcome.version,
        "stopped": outcome.stopped,
        "files": {"training": len(loop.sounds), "heldout": len(loop.heldout)},
        "spectral": {"first": spectral[0], "last": spectral[-1]} if spectral else None,
        "validation": {"first": measured[0], "last": measured[-1]} if measured else None,
        "prefixes": [LIGHTNING, *([VAE_PREFIXES[0]] if recipe.whole else [])],
    }
    folder.summary.write_text(json.dumps(summary, indent=2), encoding="utf-8")
    console.print(f"Autoencoder: {folder.path / VAE}", highlight=False, soft_wrap=True)
    if outcome.stopped:
        console.print(f"Stopped at step {outcome.version}; continue with: --resume name={folder.name}", soft_wrap=True)
