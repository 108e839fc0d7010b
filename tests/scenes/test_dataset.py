"""Scenes as files: what is read back is what was drawn."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from media.video import read_clip
from scenes import dataset, picture, sound
from scenes.config import ScenesConfig
from scenes.world import make_scene, scene_seed

CONFIG = ScenesConfig(seed=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    dataset.build(folder, "tests", 3, CONFIG)
    return folder


def test_files_hold_picture_sound_and_truth(built: Path) -> None:
    records = dataset.build(built, "tests", 3, CONFIG)
    for index, record in enumerate(records):
        scene = make_scene(scene_seed("tests", 3, index))
        clip = read_clip(record.uri)
        assert clip.fps == 16
        assert clip.sample_rate == sound.SAMPLE_RATE
        assert clip.frames.shape == (32, 96, 96, 3)
        assert np.abs(clip.frames.astype(int) - picture.render(scene)).mean() < 6
        assert clip.waveform is not None
        assert np.abs(clip.waveform - sound.render(scene)).max() < 1e-3
        assert record.events == pytest.approx(scene.events)
        assert record.label == scene.material.label
        assert record.caption == scene.caption


def test_a_second_build_reads_back_instead_of_rendering(built: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in built.iterdir()}
    dataset.build(built, "tests", 3, CONFIG)
    assert before == {p.name: p.stat().st_mtime_ns for p in built.iterdir()}


def test_the_folder_can_move(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "moved")
    records = dataset.build(tmp_path / "moved", "tests", 3, CONFIG)
    assert all(Path(r.uri).parent == tmp_path / "moved" for r in records)


def test_relative_folders_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = dataset.build(Path("a/b"), "tests", 1, CONFIG)
    again = dataset.build(Path("a/b"), "tests", 1, CONFIG)
    assert Path(written[0].uri).is_file()
    assert Path(again[0].uri).is_file()


def test_corrupted_builds_differ_from_clean_ones_and_are_described(tmp_path: Path) -> None:
    records = dataset.build(tmp_path, "tests", 4, CONFIG, clean_text="Clean.")
    texts = dataset.described("tests", 4, CONFIG, "Clean.")
    assert len(texts) == 4
    assert all(texts)
    scene = make_scene(scene_seed("tests", 3, 0), CONFIG.quiet)
    heard = read_clip(records[0].uri).waveform
    assert heard is not None
    assert np.abs(heard - sound.render(scene)).max() > 1e-2


def test_folder_names_follow_the_content() -> None:
    other = ScenesConfig(seed=4)
    assert dataset.folder_name("a", 3, CONFIG) == dataset.folder_name("a", 3, ScenesConfig(seed=3))
    assert len({dataset.folder_name(s, n, c) for s in "ab" for n in (3, 4) for c in (CONFIG, other)}) == 8


def test_two_renderings_are_the_same_bytes(tmp_path: Path) -> None:
    for name in "abc":
        dataset.build(tmp_path / name, "tests", 4, CONFIG)
    files = [[p.read_bytes() for p in sorted((tmp_path / name).glob("*.mp4"))] for name in "abc"]
    assert files[0] == files[1] == files[2]
