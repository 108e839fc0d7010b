"""The autoencoder's stage from recipe to released files, on drawn scenes, with the debug recipe."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation import prismaudio
from foundation.errors import CheckpointError
from foundation.flat import read_flat
from media.audio import write_wav
from media.errors import ManifestError
from pipelines.finetune_vae import VaeRecipe, finetune_vae
from pipelines.recipe import ROOT
from pipelines.run_folder import RunFolder
from settings import PrismError
from settings.load import load
from tests.foundation.released import released_names
from trainer.autoencoder import AutoencoderConfig
from trainer.autoencoder_loop import latest, version_of

DEBUG = ROOT / "recipes" / "debug" / "prismaudio_vae.yaml"


def run(runs: Path, release: Path, name: str, *overrides: str, resume: bool = False) -> RunFolder:
    return finetune_vae(DEBUG, [f"model={release}", f"runs_dir={runs}", f"name={name}", *overrides], resume=resume)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs, which share its drawn scenes."""
    return tmp_path_factory.mktemp("vae") / "runs"


@pytest.fixture(scope="module")
def finished(runs: Path, release: Path) -> RunFolder:
    return run(runs, release, "straight")


def records(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_the_sides_take_turns(finished: RunFolder) -> None:
    lines = records(finished)
    assert [line["iteration"] for line in lines] == list(range(24))
    assert [line["turn"][0] for line in lines] == list("aaaaa" + "da" * 9 + "d")
    measured = [line["validation"]["spectral"] for line in lines if "validation" in line]
    assert len(measured) == 2
    learned = [line["spectral"] for line in lines if "spectral" in line]
    assert np.mean(learned[-4:]) < 0.8 * np.mean(learned[:4])
    assert measured[1] < measured[0]
    own = [line["loss"] for line in lines if line["turn"] == "discriminator"]
    assert own[-1] < own[0]
    assert json.loads(finished.summary.read_text())["files"] == {"training": 4, "heldout": 2}


def test_both_layouts_are_written_and_load_strictly(finished: RunFolder, release: Path) -> None:
    tuned = torch.load(finished.path / "vae.ckpt", weights_only=True)
    assert list(tuned) == ["state_dict"]
    assert all(name.startswith("autoencoder.") for name in tuned["state_dict"])
    whole = prismaudio.load(finished.path / "prismaudio.ckpt")
    assert whole.codec is not None
    assert set(read_flat(finished.path / "prismaudio.ckpt")) == set(released_names())
    state = whole.codec.official_state("autoencoder.")
    assert all(torch.equal(state[name], tensor) for name, tensor in tuned["state_dict"].items())
    before = prismaudio.load(release)
    assert before.codec is not None
    old = before.codec.official_state("autoencoder.")
    assert any(not torch.equal(state[name], old[name]) for name in state)
    flow = whole.flow.state_dict()
    assert all(torch.equal(flow[name], tensor) for name, tensor in before.flow.state_dict().items())


def test_a_run_that_was_cut_short_goes_on_to_the_same_end(runs: Path, release: Path, finished: RunFolder) -> None:
    run(runs, release, "cut", "learner.iterations=13", "learner.checkpoint_every=5")
    folder = run(runs, release, "cut", "learner.iterations=24", resume=True)
    assert [line["iteration"] for line in records(folder)] == list(range(24))
    resumed, straight = read_flat(folder.path / "vae.ckpt"), read_flat(finished.path / "vae.ckpt")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    saved = sorted(version_of(path) for path in (folder.path / "checkpoints").iterdir())
    assert saved == [15, 20, 24]
    newest = latest(folder.path / "checkpoints")
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"step-000024\.safetensors .* not a complete safetensors file"):
        run(runs, release, "cut", "learner.iterations=25", resume=True)


@pytest.mark.slow
def test_two_workers_share_every_batch(ray_session: str, runs: Path, release: Path, finished: RunFolder) -> None:
    folder = run(runs, release, "two", "learner.num_workers=2", "learner.iterations=6", "learner.eval_every=0")
    alone = records(finished)[:6]
    for line, expected in zip(records(folder), alone, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-2)
        assert line["lr"] == expected["lr"]
    assert read_flat(folder.path / "vae.ckpt").keys() == read_flat(finished.path / "vae.ckpt").keys()


def test_ones_own_sounds_with_a_broken_one_among_them(tmp_path: Path, runs: Path, release: Path) -> None:
    data = tmp_path / "sounds"
    data.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        write_wav(data / f"{number}.wav", 0.2 * random.standard_normal((2, 8000), np.float32), 16_000)
    (data / "broken.mp3").write_bytes(b"nothing")
    folder = run(runs, release, "own", f"data={data}", "heldout=0", "learner.iterations=6", "whole=false")
    skipped = (folder.path / "skipped-0.jsonl").read_text().splitlines()
    assert {json.loads(line)["file"] for line in skipped} == {str(data / "broken.mp3")}
    assert not (folder.path / "prismaudio.ckpt").exists()


def test_what_cannot_be_done_is_said_before_a_run_begins(tmp_path: Path, runs: Path, release: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ManifestError, match="holds no sound"):
        run(runs, release, "first", f"data={empty}")
    with pytest.raises(PrismError, match="whole: true needs a flow model"):
        run(runs, release / "vae.ckpt", "second")
    with pytest.raises(PrismError, match="holds no autoencoder"):
        run(runs, release / "synchformer_state_dict.pth", "third", "whole=false")
    with pytest.raises(PrismError, match="There is no release or autoencoder"):
        run(runs, tmp_path / "nowhere", "fourth")
    assert not (runs / "second").exists()


def test_the_full_recipe_says_what_the_defaults_are() -> None:
    recipe = load(VaeRecipe, ROOT / "recipes" / "prismaudio_vae.yaml")
    stated = {"batch": 144, "per_pass": 6, "precision": "bf16"}
    assert recipe.training == AutoencoderConfig(**stated)
    assert recipe.learner.use_gpu
