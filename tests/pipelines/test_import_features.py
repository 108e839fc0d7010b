"""Feature files of other tools: into a store and out again, and what is wrong with some of them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from media.features import (
    AUDIO,
    AUDIO_SCALE,
    SYNC,
    TEXT,
    TEXT_GLOBAL,
    VIDEO,
    VIDEO_GLOBAL,
    FeatureError,
    FeatureStore,
    stretch_id,
    text_id,
)
from media.manifest import read_manifest, sha256_of
from media.npz import read_npz
from media.stretches import read_stretches
from pipelines.export_features import export_npz
from pipelines.import_features import ImportSummary, import_memmaps, import_npz
from tests.pipelines.conftest import write_scene


def official(folder: Path, name: str, seed: int, **changed: object) -> dict[str, np.ndarray]:
    """A file as the official script writes it, at small widths; values that half precision holds exactly."""
    rng = np.random.default_rng(seed)
    shapes = {
        AUDIO: (8, 21),
        VIDEO_GLOBAL: (16,),
        VIDEO: (4, 16),
        TEXT_GLOBAL: (16,),
        TEXT: (5 + seed, 16),
        SYNC: (8, 12),
    }
    arrays = {key: rng.normal(size=shape).astype(np.float16).astype(np.float32) for key, shape in shapes.items()}
    words = {"id": name, "audio_path": None, "video_path": None, "caption_cot": f"A bell rings {seed} times."}
    fields = {**words, **arrays, **changed}
    np.savez(folder / f"{name}.npz", **{k: v for k, v in fields.items() if v is not ...})  # type: ignore[arg-type]
    return arrays


def run(call, *arguments, **options) -> tuple[ImportSummary, str]:  # type: ignore[no-untyped-def]
    console = Console(file=io.StringIO(), width=200)
    summary = call(*arguments, console, **options)
    return summary, console.file.getvalue()  # type: ignore[attr-defined]


def test_official_files_go_in_and_come_out_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "npz", tmp_path / "out"
    folder.mkdir()
    given = {f"c{k}": official(folder, f"c{k}", k) for k in range(3)}
    (folder / "train.txt").write_text("c0.npz\nc2.npz\n\n")
    store = FeatureStore(tmp_path / "store")
    summary, text = run(import_npz, store, folder, split=folder / "train.txt")
    assert (summary.imported, summary.there, summary.failures) == (2, 0, [])
    assert "2 clips imported" in text
    stretches = read_stretches(store.root)
    assert [(s.clip, s.text, s.split) for s in stretches] == [
        ("c0", "A bell rings 0 times.", "train"),
        ("c2", "A bell rings 2 times.", "train"),
    ]
    assert stretches[0].id == stretch_id(sha256_of(folder / "c0.npz"), 0, 9)
    np.testing.assert_array_equal(
        store.read("t5gemma-official", [text_id("A bell rings 2 times.")]).popitem()[1][TEXT], given["c2"][TEXT]
    )
    assert export_npz(store, out) == (2, [])
    assert (out / "train.txt").read_text() == "c0.npz\nc2.npz\n"
    for name in ("c0", "c2"):
        words, arrays = read_npz(out / f"{name}.npz")
        assert (words["id"], words["caption_cot"]) == (name, f"A bell rings {name[1]} times.")
        assert arrays.keys() == given[name].keys()
        for key, array in given[name].items():
            np.testing.assert_array_equal(arrays[key], array)
    # In again under another label, the same; all of them this time.
    assert run(import_npz, store, folder)[0].imported == 1
    assert run(import_npz, store, folder)[0].there == 3
    assert store.ids("oobleck-official") == sorted(s.id for s in read_stretches(store.root))


def test_a_clip_whose_video_is_there_has_the_id_of_extraction(tmp_path: Path) -> None:
    folder, videos = tmp_path / "npz", tmp_path / "videos"
    folder.mkdir()
    videos.mkdir()
    official(folder, "a", 0)
    official(folder, "b", 1, video_path=str(write_scene(videos / "other.mp4", 1)))
    video = write_scene(videos / "a.mp4", 0)
    store = FeatureStore(tmp_path / "store")
    run(import_npz, store, folder, videos=videos, seconds=2.0)
    assert next(s.id for s in read_stretches(store.root)) == stretch_id(sha256_of(video), 0, 2)
    assert [(Path(r.uri).name, r.seconds) for r in read_manifest(tmp_path / "store" / "clips.parquet")] == [
        ("a.mp4", 2.0),
        ("other.mp4", 2.0),
    ]


def test_bad_files_are_listed_and_the_rest_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    official(folder, "good", 0)
    official(folder, "inference", 1, latent=None)
    official(folder, "batched", 2, video_features=np.ones((1, 4, 16), np.float32))
    official(folder, "lacking", 3, sync_features=...)
    official(folder, "nan", 4, text_features=np.full((3, 16), np.nan))
    official(folder, "flat", 5, video_features=np.ones(16))
    official(folder, "huge", 6, sync_features=np.full((8, 12), 1e6))
    official(folder, "pickled", 7, text_features=np.array([{"a": 1}], dtype=object))
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.npz").write_bytes(b"")
    names = [path.name for path in folder.glob("*.npz")]
    split = tmp_path / "val.txt"
    split.write_text("\n".join([*names, "gone.npz"]))
    store = FeatureStore(tmp_path / "store")
    summary, text = run(import_npz, store, folder, split=split)
    assert summary.imported == 3
    reasons = {Path(failure.uri).stem: failure.reason for failure in summary.failures}
    said = {
        "lacking": "lacks sync_features",
        "nan": "NaN or infinity in text_features",
        "flat": "expected 2 axes",
        "huge": "store it as float32",
        "pickled": "pickle, which is not opened",
        "cut": "damaged",
        "empty": "damaged",
        "gone": "no such file",
    }
    assert reasons.keys() == said.keys()
    assert all(said[name] in reason for name, reason in reasons.items()), reasons
    assert "8 failed" in text
    assert len(store.failures()) == 8
    assert {s.clip: s.split for s in read_stretches(store.root)} == dict.fromkeys(
        ["good", "inference", "batched"], "val"
    )
    # The clip without a latent is exported as far as it goes: not at all, and it says so.
    written, left = export_npz(store, tmp_path / "out")
    assert (written, len(left)) == (2, 1)
    assert (left[0].what, "has no features" in left[0].reason) == ("export", True)
    with pytest.raises(FeatureError, match=r"holds no \.npz"):
        run(import_npz, store, tmp_path)


def memmaps(folder: Path, count: int, kind: str = "float32") -> dict[str, np.ndarray]:
    """A folder as TensorDict.memmap_ writes it, with its table."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    shapes = {
        "mean": (20, 6),
        "std": (20, 6),
        "clip_features": (8, 4),
        "sync_features": (24, 5),
        "text_features": (7, 4),
    }
    arrays = {name: rng.uniform(0.5, 2, (count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    meta: dict[str, object] = {"shape": [], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
    for name, array in arrays.items():
        bits = (array.view(np.uint32) >> 16).astype("<u2") if kind == "bfloat16" else array.astype("<f4")
        (folder / f"{name}.memmap").write_bytes(bits.tobytes())
        arrays[name] = (bits.astype(np.uint32) << 16).view(np.float32) if kind == "bfloat16" else array
        meta[name] = {"device": "cpu", "shape": list(array.shape), "dtype": f"torch.{kind}", "is_nested": False}
    (folder / "meta.json").write_text(json.dumps(meta))
    rows = "".join(f"v{k}\tthe sound of {k}\n" for k in range(count))
    folder.with_name(f"{folder.name}.tsv").write_text("id\tlabel\n" + rows)
    return arrays


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_memory_maps_of_mmaudio(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "vgg-train"
    given = memmaps(folder, 3, kind)
    store = FeatureStore(tmp_path / "store")
    summary, _ = run(import_memmaps, store, folder, dtype="float32")
    assert (summary.imported, summary.failures) == (3, [])
    stretches = read_stretches(store.root)
    assert [(s.clip, s.caption, s.split, s.seconds) for s in stretches][1] == ("v1#1", "the sound of 1", "train", 8.0)
    found = store.read("mmaudio_vae-mmaudio", [s.id for s in stretches])
    for k, stretch in enumerate(stretches):
        np.testing.assert_array_equal(found[stretch.id][AUDIO], given["mean"][k].T)
        np.testing.assert_array_equal(found[stretch.id][AUDIO_SCALE], given["std"][k].T)
    sync = store.read("synchformer-mmaudio", [stretches[2].id])[stretches[2].id][SYNC]
    np.testing.assert_array_equal(sync, given["sync_features"][2])
    assert store.ids("clip_text-mmaudio") == sorted(s.text_id for s in stretches)
    assert run(import_memmaps, store, folder)[0].there == 3


def test_wrong_memory_maps(tmp_path: Path) -> None:
    folder, store = tmp_path / "vgg", FeatureStore(tmp_path / "store")
    with pytest.raises(FeatureError, match=r"no folder of memory-mapped tensors.*meta\.json"):
        run(import_memmaps, store, folder)
    given = memmaps(folder, 3)
    table = folder.with_name("vgg.tsv")
    rows = table.read_text()
    table.write_text("\n".join(rows.splitlines()[:-1]))
    with pytest.raises(FeatureError, match=r"has rows mean: 3.*and 2 of each"):
        run(import_memmaps, store, folder)
    table.write_text(rows.replace("id\t", "name\t"))
    with pytest.raises(FeatureError, match="has the columns name, label; expected id"):
        run(import_memmaps, store, folder)
    table.write_text(rows)
    given["sync_features"][1] = np.nan
    (folder / "sync_features.memmap").write_bytes(given["sync_features"].tobytes())
    summary, _ = run(import_memmaps, store, folder)
    assert summary.imported == 2
    assert summary.failures[0].uri.endswith("vgg#1")
    (folder / "mean.memmap").write_bytes(b"\0" * 7)
    with pytest.raises(FeatureError, match=r"mean\.memmap: should have 1440 bytes.*the file has 7"):
        run(import_memmaps, store, folder)
