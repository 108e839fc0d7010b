"""From one's own videos and a forged release to a post-trained soundtrack and a released file."""

from io import StringIO
from pathlib import Path

import pytest
import soundfile
import torch
from rich.console import Console

from foundation import prismaudio
from foundation.flat import read_flat
from foundation.lora import TARGETS
from media.features import FeatureStore
from pipelines.convert import export
from pipelines.generate import generate
from pipelines.recipe import ROOT
from pipelines.run_folder import RunFolder
from pipelines.train import train
from tests.pipelines.conftest import write_scene

DEBUG = ROOT / "recipes" / "debug" / "prismaudio_1gpu.yaml"


def run(release: Path, runs: Path, videos: Path, *overrides: str, resume: bool = False) -> RunFolder:
    settings = [f"model={release}", f"data={videos}", f"runs_dir={runs}", "heldout_share=0.5", *overrides]
    return train(DEBUG, settings, resume=resume, console=Console(file=StringIO()))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short videos, one of another length, one with a caption: their plans have different numbers of tokens."""
    folder = tmp_path_factory.mktemp("videos")
    for index, repeat in enumerate((1, 1, 2)):
        write_scene(folder / f"clip{index}.mp4", index, repeat)
    (folder / "captions.csv").write_text("file,caption\nclip0.mp4,A glass marble bouncing on a table.\n")
    return folder


@pytest.fixture(scope="module")
def finished(ray_session: str, release: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(release, tmp_path_factory.mktemp("runs"), videos, "name=whole")


def exported(folder: RunFolder, target: Path) -> dict[str, torch.Tensor]:
    return read_flat(export(folder.path, target))


def test_the_export_is_the_release_with_other_weights_where_adapters_were(
    finished: RunFolder, release: Path, tmp_path: Path
) -> None:
    made = exported(finished, tmp_path / "prismaudio.ckpt")
    start = read_flat(release / "prismaudio.ckpt")
    assert list(made) == list(start)
    changed = {name for name in made if not torch.equal(made[name], start[name])}
    assert len(changed) == 24 * len(TARGETS)
    assert all(any(f".{layer}." in name for layer in TARGETS.values()) for name in changed)
    assert prismaudio.load(tmp_path / "prismaudio.ckpt").codec is not None


def test_a_resumed_run_equals_an_undisturbed_one(
    finished: RunFolder, release: Path, videos: Path, tmp_path: Path
) -> None:
    run(release, tmp_path, videos, "name=split", "learner.iterations=1")
    resumed = run(release, tmp_path, videos, "name=split", "learner.iterations=2", resume=True)
    whole, again = (exported(f, tmp_path / f"{f.path.name}.safetensors") for f in (finished, resumed))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_clips_are_encoded_once(finished: RunFolder, release: Path, videos: Path) -> None:
    store = FeatureStore(finished.path.parent / ".cache" / "features")
    assert len(store.ids(store.resolve("videoprism"))) == len(store.ids(store.resolve("synchformer"))) == 3
    before = {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*.parquet")}
    run(release, finished.path.parent, videos, "name=second", "learner.iterations=1")
    assert {path: path.stat().st_mtime_ns for path in Path(store.root).rglob("*.parquet")} == before


def test_the_trained_model_makes_a_soundtrack(finished: RunFolder, videos: Path, tmp_path: Path) -> None:
    made = generate([videos / "clip2.mp4"], None, tmp_path, model=finished.path, steps=2, guidance=5.0)
    sound, rate = soundfile.read(made[0].with_suffix(".wav"))
    assert (sound.shape, rate) == ((4 * 44_100, 2), 44_100)
    assert 0.01 < abs(sound).max() <= 1
