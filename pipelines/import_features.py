"""`prism import-features`: feature files of other tools into a feature store."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console

from media.errors import MediaError
from media.features import (
    AUDIO,
    AUDIO_SCALE,
    SYNC,
    TEXT,
    TEXT_GLOBAL,
    VIDEO,
    VIDEO_GLOBAL,
    Arrays,
    Failure,
    FeatureError,
    FeatureStore,
    stretch_id,
)
from media.manifest import SUFFIXES, ClipRecord, read_manifest, sha256_of, write_manifest
from media.memmaps import as_float, read_memmaps, read_table
from media.npz import read_npz, read_split
from media.parts import Stored, make_row
from media.stretches import Stretch, write_stretches
from media.video import probe
from pipelines.features_view import StageProgress, failure_table

BATCH = 64
THREADS = 8
CLIPS = "clips.parquet"
EXTRA = "videoprism_text"  # stored by the official tools, read by nothing
# Kind of encoder: whether its ids are those of texts, and its arrays. In a store they are called KIND-LABEL.
NPZ = {
    "videoprism": (False, (VIDEO, VIDEO_GLOBAL)),
    "synchformer": (False, (SYNC,)),
    "oobleck": (False, (AUDIO, AUDIO_SCALE)),
    "t5gemma": (True, (TEXT,)),
    EXTRA: (True, (TEXT_GLOBAL,)),
}
CLIP = "clip_features"
MEMMAP = {
    "clip": (False, (CLIP,)),
    "synchformer": (False, (SYNC,)),
    "mmaudio_vae": (False, (AUDIO, AUDIO_SCALE)),
    "clip_text": (True, (TEXT,)),
}
Kinds = dict[str, tuple[bool, tuple[str, ...]]]


@dataclass(frozen=True)
class Item:
    """One clip of a foreign data set. source: where it was read. record: of its video, where that is at hand."""

    source: str
    stretch: Stretch
    arrays: Arrays
    record: ClipRecord | None = None


@dataclass
class ImportSummary:
    """imported: clips. there: clips that were in the store before. failures: with their reasons."""

    imported: int = 0
    there: int = 0
    failures: list[Failure] = field(default_factory=list)


Read = Callable[[], Item]


def import_npz(
    store: FeatureStore,
    folder: Path,
    console: Console,
    split: Path | None = None,
    label: str = "official",
    seconds: float = 9.0,
    videos: Path | None = None,
    dtype: Stored = "float16",
) -> ImportSummary:
    """Official .npz files, those that the text file `split` lists, else all of the folder.

    label: what the encoders are called in the store, as in videoprism-official. seconds: of the clips, from the start
    of their videos. videos: a folder of ID.mp4, where the paths inside the files do not hold. A clip whose video is
    found has the id that `prism features` would give it and goes into the store's clip table; any other has an id made
    of its file's digest. Splits are named after the lists; all but those for validation and test are "train".
    Raises FeatureError when there is nothing to import.
    """
    names = read_split(split) if split else sorted(path.name for path in folder.glob("*.npz"))
    if not names:
        raise FeatureError(folder, "holds no .npz file; name the folder that does, or a split file with their names.")
    part = _split(split.stem) if split else "train"
    reads = [(str(folder / name), partial(_npz_item, folder / name, part, seconds, videos)) for name in names]
    return _import(store, reads, NPZ, label, dtype, console)


def import_memmaps(
    store: FeatureStore,
    folder: Path,
    console: Console,
    table: Path | None = None,
    label: str = "mmaudio",
    seconds: float = 8.0,
    videos: Path | None = None,
    dtype: Stored = "float16",
) -> ImportSummary:
    """MMAudio's memory-mapped features with their TSV table, by default FOLDER.tsv beside the folder.

    Its encoders are not PrismAudio's: they are stored as clip-LABEL, synchformer-LABEL, mmaudio_vae-LABEL and
    clip_text-LABEL. The other arguments are those of `import_npz`. Raises FeatureError.
    """
    arrays = read_memmaps(folder)
    table = table or folder.with_name(f"{folder.name}.tsv")
    rows = read_table(table)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if set(lengths.values()) != {len(rows)} or "mean" not in arrays:
        told = ", ".join(f"{name}: {count}" for name, count in lengths.items())
        raise FeatureError(folder, f"has rows {told}; expected `mean`, and {len(rows)} of each as in {table}.")
    reads = [
        (f"{folder}#{k}", partial(_memmap_item, arrays, k, name, text, folder, seconds, videos))
        for k, (name, text) in enumerate(rows)
    ]
    return _import(store, reads, MEMMAP, label, dtype, console)


def _import(
    store: FeatureStore, reads: Sequence[tuple[str, Read]], kinds: Kinds, label: str, dtype: Stored, console: Console
) -> ImportSummary:
    """Read, check and write batch by batch: whatever stops it, the next call goes on from there."""
    summary = ImportSummary()
    described: list[Item] = []
    todo = iter(reads)
    try:
        with StageProgress(console, f"import {label}", len(reads)) as progress, ThreadPoolExecutor(THREADS) as pool:
            while batch := list(islice(todo, BATCH)):
                answers = [_fitting(answer, dtype) for answer in pool.map(_attempt, batch)]
                failed = [answer for answer in answers if isinstance(answer, Failure)]
                items = {item.stretch.id: item for item in answers if isinstance(item, Item)}
                store.record(failed, [("import", source) for source, _ in batch])
                there = _write(store, items, kinds, label, dtype)
                described += [replace(item, arrays={}) for item in items.values()]
                summary.failures += failed
                summary.there, summary.imported = summary.there + there, summary.imported + len(items) - there
                for answer in answers:
                    progress.advance(failed=isinstance(answer, Failure))
    finally:
        _describe(store, described)
    for kind in kinds:
        store.compact(f"{kind}-{label}")
    console.print(
        f"{summary.imported} clips imported, {summary.there} already there, {len(summary.failures)} failed",
        highlight=False,
    )
    if summary.failures:
        console.print(failure_table(summary.failures, store.root))
    return summary


def _attempt(read: tuple[str, Read]) -> Item | Failure:
    source, call = read
    try:
        return call()
    except MediaError as error:
        return Failure("import", source, source, error.reason)
    except OSError as error:
        return Failure("import", source, source, f"cannot be read ({error}).")


def _fitting(answer: Item | Failure, dtype: Stored) -> Item | Failure:
    """An item that can be stored, else why not."""
    if isinstance(answer, Item):
        try:
            for name, array in answer.arrays.items():
                make_row(answer.stretch.id, name, array, dtype)
        except FeatureError as error:
            return Failure("import", answer.source, answer.source, error.reason)
    return answer


def _write(store: FeatureStore, items: Mapping[str, Item], kinds: Kinds, label: str, dtype: Stored) -> int:
    """Store what is new of a batch; returns how many clips were there with everything."""
    untouched = set(items)
    for kind, (of_text, names) in kinds.items():
        rows = {}
        for key, item in items.items():
            arrays = {name: item.arrays[name] for name in names if name in item.arrays}
            if arrays and (not of_text or item.stretch.text):
                rows[item.stretch.text_id if of_text else key] = (key, arrays)
        new = set(store.missing(f"{kind}-{label}", rows))
        untouched -= {key for row, (key, _) in rows.items() if row in new}
        store.write(f"{kind}-{label}", {row: arrays for row, (_, arrays) in rows.items() if row in new}, dtype)
    return len(untouched)


def _describe(store: FeatureStore, items: Sequence[Item]) -> None:
    """Add to the table of stretches and, of clips whose video is at hand, to the clip table beside it."""
    write_stretches(store.root, [item.stretch for item in items])
    records = {item.record.id: item.record for item in items if item.record is not None}
    if not records or "://" in store.root:
        return
    path = Path(store.root) / CLIPS
    known = {record.id: record for record in read_manifest(path)} if path.exists() else {}
    write_manifest(path, list((known | records).values()))


def _record(stretch: Stretch) -> ClipRecord:
    """The clip table's row. Raises the MediaError that fits."""
    found = probe(stretch.uri)
    return ClipRecord(
        stretch.clip, stretch.uri, found.seconds, found.fps, max(1, round(found.seconds * found.fps)),
        found.sample_rate, found.channels, stretch.caption, stretch.split, stretch.sha256,
    )  # fmt: skip


def _split(name: str) -> str:
    return name if any(word in name.lower() for word in ("val", "test")) else "train"


def _npz_item(path: Path, split: str, seconds: float, videos: Path | None) -> Item:
    words, arrays = read_npz(path)
    name = words["id"] or path.stem
    video = _video(name, videos, words["video_path"])
    digest = sha256_of(video or path)
    stretch = Stretch(
        stretch_id(digest, 0.0, seconds), name, str(video or words["video_path"]), 0.0, seconds, digest, split,
        text=words["caption_cot"],
    )  # fmt: skip
    return Item(str(path), stretch, arrays, _record(stretch) if video else None)


def _memmap_item(
    arrays: Mapping[str, np.ndarray], row: int, name: str, text: str, folder: Path, seconds: float, videos: Path | None
) -> Item:
    names = {"mean": AUDIO, "std": AUDIO_SCALE, CLIP: CLIP, "sync_features": SYNC, "text_features": TEXT}
    found = {names[key]: as_float(array[row]) for key, array in arrays.items() if key in names}
    source = f"{folder}#{row}"
    for key, array in found.items():
        if array.ndim != 2 or not np.isfinite(array).all():
            raise FeatureError(source, f"holds {key} of {name} as {array.shape}; expected two axes of finite numbers.")
    # MMAudio keeps latents as (frames, channels).
    found |= {key: np.ascontiguousarray(found[key].T) for key in (AUDIO, AUDIO_SCALE) if key in found}
    video = _video(name, videos, "")
    # Rows of audio sets repeat ids, one per excerpt, so that without a video the content decides.
    digest = (
        sha256_of(video) if video else hashlib.sha256(b"".join(found[k].tobytes() for k in sorted(found))).hexdigest()
    )
    clip = name if video else f"{name}#{row}"
    stretch = Stretch(
        stretch_id(digest, 0.0, seconds),
        clip,
        str(video or ""),
        0.0,
        seconds,
        digest,
        _split(folder.name),
        text or None,
        text,
    )
    return Item(source, stretch, found, _record(stretch) if video else None)


def _video(name: str, folder: Path | None, told: str) -> Path | None:
    """The clip's video, where it is at hand."""
    candidates = [Path(told)] if told else []
    candidates += [folder / f"{name}{suffix}" for suffix in SUFFIXES] if folder else []
    return next((path.resolve() for path in candidates if path.is_file()), None)
