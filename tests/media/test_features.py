"""The feature store: what goes in comes out, whoever dies in between."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from media.features import Failure, FeatureError, FeatureStore, stretch_id, text_id
from media.files import Files

ENCODER = "videoprism-1f3a9c0e12"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ARRAYS = npst.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    elements=st.floats(-1000, 1000, width=16),
)
ROWS = st.dictionaries(TEXT, st.dictionaries(TEXT, ARRAYS, min_size=1, max_size=3), max_size=5)


@given(ROWS, st.lists(TEXT, max_size=3), st.booleans())
@settings(max_examples=60)
def test_any_features_come_back(rows: dict, others: list[str], remote: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(f"memory://{uuid.uuid4()}" if remote else folder)
        store.write(ENCODER, rows)
        again = pickle.loads(pickle.dumps(store))
        found = again.read(ENCODER, rows)
        assert list(found) == list(rows)
        assert again.ids(ENCODER) == sorted(rows)
        assert again.missing(ENCODER, [*others, *rows]) == [key for key in dict.fromkeys(others) if key not in rows]
        for key, arrays in rows.items():
            assert found[key].keys() == arrays.keys()
            for name, array in arrays.items():
                assert found[key][name].dtype == np.float32
                np.testing.assert_array_equal(found[key][name], array.astype(np.float32))


@given(st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=8), st.integers(300, 20_000))
@settings(max_examples=30)
def test_merging_keeps_every_row_once(parts: list[set[int]], part_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder)
        rows = {str(k): {"x": np.full(k % 7, k), "y": np.float32(k)} for k in range(31)}
        for part in parts:
            store.write(ENCODER, {str(k): rows[str(k)] for k in part})
        expected = sorted({str(k) for part in parts for k in part})
        before = len(list(Path(folder).rglob("*.parquet")))
        saved = store.compact(ENCODER, part_bytes)
        assert before - len(list(Path(folder).rglob("*.parquet"))) == saved
        # The instance that looked before the merge and a new one see the same.
        for reader in (store, FeatureStore(folder)):
            found = reader.read(ENCODER, expected)
            assert all((found[k]["x"] == rows[k]["x"]).all() and found[k]["y"] == rows[k]["y"] for k in expected)
        if part_bytes == 20_000:
            stored = ds.dataset(folder, partitioning="hive").to_table(columns=["id", "name"]).to_pylist()
            assert len(stored) == 2 * len(expected)


def test_a_merge_stopped_anywhere_shows_each_id_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after 0, 1, 2, ... changes of the folder; readers old and new see every row, the next call finishes."""
    for stop in range(6):
        root = tmp_path / str(stop)
        store = FeatureStore(root)
        for k in range(4):
            store.write(ENCODER, {f"{k}": {"x": np.full(3, k)}, "shared": {"x": np.ones(2)}})
        ids = store.ids(ENCODER)
        left = iter(range(stop))

        def limited(original):  # type: ignore[no-untyped-def]
            def call(*arguments):  # type: ignore[no-untyped-def]
                if next(left, None) is None:  # noqa: B023
                    raise KeyboardInterrupt
                return original(*arguments)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", limited(os.replace))
            patch.setattr(Files, "remove", limited(Files.remove))
            try:
                FeatureStore(root).compact(ENCODER)
            except KeyboardInterrupt:
                assert stop < 5
        for reader in (store, FeatureStore(root)):
            found = reader.read(ENCODER, ids)
            assert [int(found[key]["x"][0]) for key in ids] == [0, 1, 2, 3, 1]
        FeatureStore(root).compact(ENCODER)
        assert len(list(root.rglob("*.parquet"))) == 1
        assert FeatureStore(root).ids(ENCODER) == ids


def test_an_interrupted_write_is_never_seen(tmp_path: Path) -> None:
    """A writer killed at any moment leaves whole parts; what it left half-written is not looked at."""
    code = (
        "import sys, numpy as np; from media.features import FeatureStore; s = FeatureStore(sys.argv[1])\n"
        "for k in range(100000):\n"
        "    s.write('e-1', {f'{k}-{j}': {'x': np.full((400, 64), k % 99)} for j in range(8)}); print(k, flush=True)"
    )
    for lines in (1, 3):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    (tmp_path / "encoder=e-1" / ".part-0.parquet.x.partial").write_bytes(b"PAR1")
    store = FeatureStore(tmp_path)
    ids = store.ids("e-1")
    found = store.read("e-1", ids)
    assert len(ids) >= 24
    assert len(ids) % 8 == 0
    assert all((found[key]["x"] == int(key.split("-")[0]) % 99).all() for key in ids)


def test_writing_again_gives_the_same_file(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    rows = {"b": {"x": np.arange(4.0)}, "a": {"x": np.ones((2, 3)), "y": np.zeros(0)}}
    path = Path(store.write(ENCODER, rows))
    first = path.read_bytes()
    assert store.write(ENCODER, dict(reversed(rows.items()))) == str(path)
    assert path.read_bytes() == first
    assert store.write(ENCODER, {"a": {"z": np.ones(1)}}) != str(path)
    assert store.read(ENCODER, ["a"])["a"].keys() == {"x", "y", "z"}
    assert store.read(ENCODER, ["a"], ["y"])["a"].keys() == {"y"}
    assert store.missing(ENCODER, ["a", "b"], ["z"]) == ["b"]


def test_a_reader_follows_parts_written_again_with_another_type(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.write(ENCODER, {"a": {"x": np.array([1.0])}})
    assert store.read(ENCODER, ["a"])["a"]["x"] == 1
    FeatureStore(tmp_path).write(ENCODER, {"a": {"x": np.array([1e6])}}, dtype="float32")
    store.missing(ENCODER, ["a"])
    assert store.read(ENCODER, ["a"])["a"]["x"] == 1e6
    store.write(ENCODER, {"b": {"x": np.array([2.0])}})
    assert store.compact(ENCODER) == 0, "types are never mixed in a part"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([1.0, np.nan]), "NaN"),
        (np.array([np.inf]), "NaN or infinity"),
        (np.array([7e4]), "more than float16 holds"),
        (np.array([2049]), "float16 rounds"),
        (np.array(["a"]), "expected numbers"),
    ],
)
def test_values_that_do_not_fit_are_refused(array: np.ndarray, said: str, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    with pytest.raises(FeatureError, match=f"clip.*{said}"):
        store.write(ENCODER, {"ok": {"x": np.ones(2)}, "clip": {"x": array}})
    assert store.ids(ENCODER) == []


def test_what_does_not_fit_half_precision_fits_single(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.write(ENCODER, {"a": {"x": np.array([7e4, 1 / 3], np.float32), "n": np.array([2049])}}, dtype="float32")
    found = store.read(ENCODER, ["a"])["a"]
    np.testing.assert_array_equal(found["x"], np.array([7e4, 1 / 3], np.float32))
    assert found["n"] == 2049


def test_unknown_ids_names_and_encoders(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.write(ENCODER, {"a": {"x": np.ones(2)}})
    for ids, names in ((["a", "b"], None), (["a"], ["y"])):
        with pytest.raises(FeatureError, match=r"no features.* of 1 of"):
            store.read(ENCODER, ids, names)
    with pytest.raises(FeatureError, match="no encoder identity"):
        store.write("../up", {"a": {"x": np.ones(2)}})
    assert store.resolve("videoprism") == ENCODER
    store.write("videoprism-2", {"a": {"x": np.ones(2)}})
    with pytest.raises(FeatureError, match=f"found {ENCODER}, videoprism-2"):
        store.resolve("videoprism")


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "text"])
def test_a_damaged_part_is_named(damage: str, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    rng = np.random.default_rng(0)
    path = Path(store.write(ENCODER, {str(k): {"x": rng.normal(size=999)} for k in range(9)}))
    raw = bytearray(path.read_bytes())
    if damage == "foreign":
        pq.write_table(pa.table({"id": ["a"], "x": [1.0]}), path)
    elif damage == "flip":
        raw[len(raw) // 2] ^= 255
        path.write_bytes(raw)
    else:
        path.write_bytes(raw[: len(raw) // 2] if damage == "cut" else b"no table")
    said = "move it out" if damage == "foreign" else "delete it and run"
    with pytest.raises(FeatureError, match=f"{path.name}.*{said}"):
        FeatureStore(tmp_path).read(ENCODER, ["3"])
    path.unlink()
    assert FeatureStore(tmp_path).missing(ENCODER, ["3"]) == ["3"]


def test_failures_are_kept_until_they_are_settled(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    first, second = Failure("plan", "1", "b.mp4", "damaged"), Failure(ENCODER, "1", "a.mp4", "no sound")
    store.record([first, second])
    store.record([Failure("plan", "1", "b.mp4", "still damaged")], done=[(ENCODER, "1")])
    assert [f.reason for f in FeatureStore(tmp_path).failures()] == ["still damaged"]
    (tmp_path / "failures.parquet").write_text("x")
    with pytest.raises(FeatureError, match="delete it"):
        store.failures()


def test_ids_name_content() -> None:
    assert stretch_id("ab", 4.5, 9.0) == "ab-4500-9000"
    assert stretch_id("ab", 0.1 + 0.2, 9) == stretch_id("ab", 0.3, 9)
    assert text_id("A bell.") != text_id("A bell")
