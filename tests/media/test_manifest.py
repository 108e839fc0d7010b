"""The clip table and folders of videos."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from media.errors import ManifestError, MissingFile
from media.manifest import ClipRecord, read_manifest, scan_folder, sha256_of, write_manifest

RECORD = ClipRecord("a", "/videos/a.mp4", 2.0, 16.0, 32, 16_000, 2, "A glass marble.", "train", "00")


def test_round_trip_keeps_every_field(tmp_path: Path) -> None:
    truth = replace(RECORD, id="b", label="glass", events=(0.5, 1.25), positions=(-1.0, 0.5), position_fps=16.0)
    bare = replace(RECORD, id="c", caption=None, events=(), sample_rate=0, channels=0)
    path = tmp_path / "clips.parquet"
    write_manifest(path, [RECORD, truth, bare])
    assert read_manifest(path) == [RECORD, truth, bare]


def test_a_folder_with_its_table_can_move(movie: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "sub").mkdir(parents=True)
    shutil.copy(movie, first / "sub" / "a.mp4")
    write_manifest(first / "clips.parquet", scan_folder(first)[0])
    first.rename(second)
    assert [record.uri for record in read_manifest(second / "clips.parquet")] == [str(second / "sub" / "a.mp4")]


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"unique.*a"):
        write_manifest(tmp_path / "clips.parquet", [RECORD, RECORD])


def test_unreadable_tables(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    with pytest.raises(MissingFile):
        read_manifest(path)
    path.write_text("no table")
    with pytest.raises(ManifestError, match="not a Parquet"):
        read_manifest(path)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(ManifestError, match="lacks the columns caption"):
        read_manifest(path)


def test_scan_finds_videos_captions_and_what_is_wrong(movie: Path, silent_movie: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(movie, tmp_path / "one.mp4")
    shutil.copy(silent_movie, tmp_path / "deep" / "two.MP4")
    shutil.copy(silent_movie, tmp_path / "three.mp4")
    (tmp_path / "deep" / "two.txt").write_text("A drum.\n")
    (tmp_path / "captions.csv").write_text("file,caption\none.mp4,A bell.\n")
    (tmp_path / "broken.mov").write_text("nothing")
    (tmp_path / "notes.md").write_text("ignored")
    records, rejected = scan_folder(tmp_path)
    assert [(record.id, record.caption) for record in records] == [
        ("deep/two", "A drum."),
        ("one", "A bell."),
        ("three", None),
    ]
    assert records[1].n_frames == 32
    assert records[1].channels == 2
    assert records[0].sample_rate == 0
    assert records[1].sha256 == sha256_of(movie)
    assert [Path(item.path).name for item in rejected] == ["broken.mov"]
    assert "expected a video" in rejected[0].reason


def test_captions_by_id(movie: Path, tmp_path: Path) -> None:
    shutil.copy(movie, tmp_path / "one.mp4")
    (tmp_path / "captions.csv").write_text('id,caption\none,"A bell, struck."\n')
    assert scan_folder(tmp_path)[0][0].caption == "A bell, struck."
    (tmp_path / "captions.csv").write_text("name,text\none,A bell\n")
    with pytest.raises(ManifestError, match=r"captions.csv.*columns"):
        scan_folder(tmp_path)


def test_useless_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        scan_folder(tmp_path / "none")
    with pytest.raises(ManifestError, match="holds no video"):
        scan_folder(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ManifestError, match=r"none of its 1 videos.*empty"):
        scan_folder(tmp_path)
    with pytest.raises(ManifestError, match="is a file"):
        scan_folder(tmp_path / "a.mp4")
