"""Recipes small enough to run in seconds, on the shipped models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from media.writing import write_clip
from pipelines.recipe import ROOT, TrainRecipe
from scenes import picture, sound
from scenes.world import FPS, make_scene, scene_seed
from settings.load import load

LAPTOP = ROOT / "recipes" / "laptop.yaml"
SMALL = (
    "scenes.prompts=6",
    "scenes.heldout=4",
    "algorithm.prompts=4",
    "algorithm.group_size=4",
    "evaluation.steps=4",
    "evaluation.samples=1",
    "evaluation.guidance=[2.0]",
    "learner.iterations=4",
    "learner.eval_every=2",
    "learner.checkpoint_every=2",
    "rollout.prompts_per_task=2",
    "rollout.num_cpus=0.5",
    "rollout.torch_threads=1",
)


def small(runs: Path, *overrides: str) -> list[str]:
    """Overrides that make the laptop recipe short, with its runs below a test's folder."""
    return [*SMALL, f"runs_dir={runs}", *overrides]


def recipe(runs: Path, *overrides: str) -> TrainRecipe:
    """The short recipe, resolved."""
    return load(TrainRecipe, LAPTOP, small(runs, *overrides))


def write_scene(path: Path, index: int, repeat: int = 1) -> Path:
    """A scene as a video a user might have: 2 s per repetition."""
    scenes = [make_scene(scene_seed("own", 0, index + k)) for k in range(repeat)]
    frames = np.concatenate([picture.render(s) for s in scenes])
    waveform = np.concatenate([sound.render(s) for s in scenes], axis=1)
    write_clip(path, frames, FPS, waveform, sound.SAMPLE_RATE, audio_codec="flac")
    return path


@pytest.fixture
def own_videos(tmp_path: Path) -> Path:
    """A folder of three videos with captions, one broken file and a stray text."""
    folder = tmp_path / "own"
    folder.mkdir()
    for index in range(3):
        write_scene(folder / f"clip{index}.mp4", index, repeat=2)
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "captions.csv").write_text("file,caption\nclip0.mp4,A glass marble bouncing.\nclip1.mp4,A dragon.\n")
    return folder


def lines(path: Path) -> Sequence[str]:
    """Lines of a text file."""
    return path.read_text(encoding="utf-8").splitlines()
