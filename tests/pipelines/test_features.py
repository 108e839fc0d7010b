"""`prism features`: from videos to everything that training and rewards read."""

import io
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cot_service.build import build_planner
from media.features import AUDIO, AUDIO_SCALE, SYNC, TEXT, VIDEO, VIDEO_GLOBAL, FeatureStore, text_id
from media.manifest import scan_folder, write_manifest
from media.stretches import read_stretches
from pipelines.extraction import ExtractionError, PlacementConfig
from pipelines.extractor import Extractor
from pipelines.extractors import DELAYS, PlanTexts
from pipelines.features import ExtractSummary, FeaturesRecipe, extract, recipe_stages, stretches_of
from pipelines.recipe import ROOT
from pipelines.segments import read_segments
from settings import PrismError
from settings.load import load
from tests.pipelines.conftest import write_scene
from tests.pipelines.extractors import Held

PLACE = PlacementConfig(num_cpus=0.5, batch=2)
RECIPES = (ROOT / "recipes" / "prismaudio_features.yaml", ROOT / "recipes" / "debug" / "prismaudio_features.yaml")


def recipe(tmp_path: Path, data: Path, *overrides: str) -> FeaturesRecipe:
    return load(FeaturesRecipe, RECIPES[1], [f"data={data}", f"store={tmp_path / 'store'}", *overrides])


def run(made: FeaturesRecipe, *stages: Extractor) -> tuple[ExtractSummary, str]:
    console = Console(file=io.StringIO(), width=160)
    summary = extract(made, console, [(stage, PLACE) for stage in stages] or None)
    assert isinstance(console.file, io.StringIO)
    return summary, console.file.getvalue()


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    assert load(FeaturesRecipe, path).stages.t5gemma is not None


SHAPES = {
    VIDEO: (8, 64), VIDEO_GLOBAL: (64,), SYNC: (8 * 5, 128), AUDIO: (64, 43), AUDIO_SCALE: (64, 43),
}  # fmt: skip


def test_extractors_give_what_they_announce(own_videos: Path, release: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, own_videos, f"release={release}")
    stretch = replace(stretches_of(scan_folder(own_videos)[0], made.seconds)[0][1], text="Semantic: a bell.")
    seen: dict[str, np.ndarray] = {}
    for extractor, _ in recipe_stages(made):
        assert extractor.identity.startswith(f"{extractor.name}-")
        sent = pickle.loads(pickle.dumps(extractor))
        assert sent.identity == extractor.identity
        sent.load()
        rows = sent.rows(stretch)
        assert tuple(rows) == extractor.names
        assert all(np.isfinite(array).all() and array.any() for array in rows.values())
        seen |= rows
    assert {name: seen[name].shape for name in SHAPES} == SHAPES
    assert seen[TEXT].shape[1] == 64
    assert (seen[AUDIO_SCALE] > 0).all()
    assert len({len(seen[name]) for name in DELAYS}) == 1


@pytest.mark.usefixtures("ray_session")
def test_videos_become_texts_and_their_features(own_videos: Path, release: Path, tmp_path: Path) -> None:
    made = recipe(
        tmp_path, own_videos, f"release={release}", *(f"stages.{name}=null" for name in ("videoprism", "synchformer")),
        "stages.oobleck=null", "stages.delays=null",
    )  # fmt: skip
    summary, text = run(made)
    # Three videos of 4 s in stretches of 2 s, and one that is none.
    assert (summary.videos, summary.stretches) == (4, 6)
    assert [Path(failure.uri).name for failure in summary.failures] == ["broken.mp4"]
    assert "broken.mp4" in text
    assert "expected a video" in text
    store, stretches = FeatureStore(made.store), read_stretches(made.store)
    assert store.failures() == summary.failures
    assert summary.stages["plan"].done == 6
    captions = {s.caption for s in stretches if s.caption}
    assert captions == {"A glass marble bouncing.", "A dragon."}
    assert summary.stages["t5gemma"].done == len({s.text for s in stretches} | captions)
    assert not store.missing(store.resolve("t5gemma"), [text_id(caption) for caption in captions])
    # The texts are those that training and generation would ask for.
    segments, _ = read_segments(scan_folder(own_videos)[0], build_planner(made.planner), made.seconds)
    assert {s.text for s in stretches} == {segment.plan.join(made.planner.template) for segment in segments}
    assert len(store.read(store.resolve("t5gemma"), [s.text_id for s in stretches], [TEXT])) > 1
    again, _ = run(made)
    assert all(stage.done == stage.failed == 0 and stage.there > 0 for stage in again.stages.values())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_everything_of_a_forged_release(own_videos: Path, release: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, own_videos, f"release={release}")
    summary, _ = run(made)
    store, stretches = FeatureStore(made.store), read_stretches(made.store)
    assert [Path(failure.uri).name for failure in summary.failures] == ["broken.mp4"]
    for kind in ("videoprism", "synchformer", "oobleck", "delays"):
        for arrays in store.read(store.resolve(kind), [s.id for s in stretches]).values():
            assert all(array.shape == SHAPES.get(name, array.shape) for name, array in arrays.items())
    again, _ = run(made)
    assert all(stage.done == stage.failed == 0 and stage.there > 0 for stage in again.stages.values())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the suite was started in the background and ignores it."""
    held = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, held)


@pytest.mark.usefixtures("ray_session", "interruptible")
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_scene(folder / "long.mp4", 0, repeat=8)
    made = recipe(tmp_path, folder, "seconds=1.0")
    extractor = Held(tmp_path / "marks")

    def interrupt() -> None:
        while not list((tmp_path / "store").rglob("part-*")):
            time.sleep(0.02)
        # A real signal, as Ctrl-C sends it: it wakes a thread that waits for a lock.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(made, extractor)
    thread.join(timeout=60)
    kept = FeatureStore(made.store).ids("counting-1")
    assert 0 < len(kept) < 16
    extractor.let_go()
    summary, _ = run(made, extractor)
    stage = summary.stages["counting"]
    assert stage.there >= len(kept)
    assert stage.there + stage.done == 16
    assert stage.failed == 0


@pytest.mark.usefixtures("ray_session")
def test_a_corrupt_video_is_listed_tried_again_and_forgotten(own_videos: Path, tmp_path: Path) -> None:
    (own_videos / "broken.mp4").unlink()
    table, spoilt = tmp_path / "clips.parquet", own_videos / "clip1.mp4"
    records, _ = scan_folder(own_videos)
    write_manifest(table, [*records, replace(records[0], id="gone", uri="/nowhere.mp4", sha256="")])
    made, whole = recipe(tmp_path, table), spoilt.read_bytes()
    spoilt.write_bytes(whole[: len(whole) // 2])
    first, text = run(made, PlanTexts(made.planner))
    assert {Path(f.uri).name: f.reason for f in first.failures} == {
        "clip1.mp4": "the file ends before its index (an interrupted copy or recording); copy or record it again.",
        "nowhere.mp4": "cannot be read (No such file or directory); correct the clip table.",
    }
    assert "2 files have no features" in text
    assert (first.stages["plan"].done, first.stages["plan"].failed) == (4, 2)
    spoilt.write_bytes(whole)
    second, _ = run(made, PlanTexts(made.planner))
    assert (second.stages["plan"].done, second.stages["plan"].there) == (2, 4)
    assert [f.what for f in FeatureStore(made.store).failures()] == ["scan"]


def test_windows_cover_a_video_and_the_last_ends_with_it(own_videos: Path) -> None:
    records, _ = scan_folder(own_videos)
    found, rejected = stretches_of([replace(records[0], seconds=20.0), replace(records[1], seconds=0.1)], 9.0)
    assert [(s.start, s.seconds) for s in found] == [(0, 9), (9, 9), (11, 9)]
    assert "at least 0.25 s" in rejected[0].reason
    assert len({s.id for s in found}) == 3


@pytest.mark.usefixtures("ray_session")
def test_what_is_missing_is_said_before_anything_starts(own_videos: Path, release: Path, tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="release=FOLDER"):
        run(recipe(tmp_path, own_videos))
    with pytest.raises(PrismError, match="data=PATH"):
        extract(FeaturesRecipe(store=str(tmp_path)), Console(), [])
    with pytest.raises(ExtractionError, match=r"stages.videoprism asks for 1 workers with 1 GPUs each, but Ray has 0"):
        run(recipe(tmp_path, own_videos, f"release={release}", "stages.videoprism.num_gpus=1"))
