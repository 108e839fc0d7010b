"""`prism finetune` on a forged release: both stages of the paper at debug size, and what comes out of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from foundation import prismaudio
from foundation.build import load_model
from media.features import AUDIO, AUDIO_SCALE, SYNC, TEXT, VIDEO, FeatureError, FeatureStore, stretch_id, text_id
from media.stretches import Stretch, write_stretches
from pipelines.convert import export
from pipelines.recipe import ROOT
from pipelines.supervise import supervise
from settings import PrismError
from trainer.supervised import EXAMPLES

DEBUG = ROOT / "recipes" / "debug"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prism features` leaves of ten clips of 1 s for a tiny forged release; one has no picture, one no sound."""
    root = tmp_path_factory.mktemp("features")
    found, random = FeatureStore(root), np.random.default_rng(0)
    stretches = []
    for i in range(10):
        key, plan, caption = stretch_id(f"{i:064x}", 0, 1), f"plan {i % 4}", f"caption {i % 3}"
        stretches.append(Stretch(key, f"clip{i}", f"clip{i}.mp4", 0, 1, "0", caption=caption, text=plan))
        if i != 1:
            found.write("videoprism-0a", {key: {VIDEO: random.standard_normal((4, 64))}})
            found.write("synchformer-0b", {key: {SYNC: random.standard_normal((16, 128))}})
        for text, tokens in ((plan, 4 + i % 4), (caption, 2 + i % 3)):
            found.write("t5gemma-0c", {text_id(text): {TEXT: random.standard_normal((tokens, 64))}})
        if i != 2:
            latent = {AUDIO: random.standard_normal((64, 22)), AUDIO_SCALE: np.full((64, 22), 0.1)}
            found.write("oobleck-0d", {key: latent})
    write_stretches(root, stretches)
    return root


def quiet() -> Console:
    return Console(file=open("/dev/null", "w"), width=200)


def options(runs: Path, store: Path, *overrides: str) -> list[str]:
    return [f"runs_dir={runs}", f"features={store}", "loader.max_skipped_share=0.3", *overrides]


def test_both_stages_of_the_paper_end_in_a_released_file(tmp_path, store, release) -> None:
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    first = supervise(
        DEBUG / "prismaudio_foundation.yaml",
        options(tmp_path, store, f"model={release}", "name=foundation"),
        console=console,
    )
    summary = json.loads(first.summary.read_text())
    assert summary["steps"] == 6
    assert summary["seen"] == 48
    assert summary["examples"]["training"] + summary["examples"]["heldout"] == 9
    assert summary["left_out"] == 1
    assert "1 of 10 stretches are left out" in console.export_text()
    assert "clip2.mp4 at 0 s has no latent" in (first.path / "left_out.jsonl").read_text()
    assert (first.path / "losses.png").read_bytes().startswith(PNG)
    assert "| steps | 6 of 6, batch 8 |" in (first.path / "report.md").read_text()

    second = supervise(
        DEBUG / "prismaudio_cot.yaml",
        options(tmp_path, store, f"model={first.path}", "name=cot"),
        console=quiet(),
    )
    summary = json.loads(second.summary.read_text())
    assert summary["left_out"] == 2
    assert load_model(second.model).extra["release"] == str(release)
    assert second.path.joinpath("config.yaml").read_text().count(str(first.model)) == 1

    written = export(second.path, tmp_path / "prismaudio.ckpt")
    loaded = prismaudio.load(written)
    trained = load_model(second.model).model.state_dict()
    assert all((trained[name] == tensor).all() for name, tensor in loaded.flow.state_dict().items())


def test_a_run_continues_with_its_own_examples(tmp_path, store, release) -> None:
    recipe = DEBUG / "prismaudio_cot.yaml"
    given = options(tmp_path, store, f"model={release}", "name=run", "seed=5")
    folder = supervise(recipe, given, console=quiet())
    before = (folder.path / EXAMPLES).read_text()
    given = options(tmp_path, Path("elsewhere"), "name=run", "seed=7", "learner.iterations=4")
    again = supervise(recipe, given, resume=True, console=quiet())
    assert again.path == folder.path
    assert (folder.path / EXAMPLES).read_text() == before
    records = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [record["version"] for record in records] == [1, 2, 3, 4]
    assert json.loads(folder.summary.read_text())["steps"] == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loader.max_skipped_share=0.1"], "lacks features of 2 of 10 stretches"),
        (["features=empty"], "has no table of stretches"),
        (["encoders.text=clip"], "expected features of one clip encoder"),
        (["encoders.video=synchformer"], r"has no video_features"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_it_starts(tmp_path, store, release, overrides, message) -> None:
    with pytest.raises(FeatureError, match=message):
        supervise(
            DEBUG / "prismaudio_cot.yaml", options(tmp_path, store, f"model={release}", *overrides), console=quiet()
        )


def test_a_start_must_be_named(tmp_path, store) -> None:
    with pytest.raises(PrismError, match="model=PATH, or set init=scratch"):
        supervise(DEBUG / "prismaudio_cot.yaml", options(tmp_path, store), console=quiet())
