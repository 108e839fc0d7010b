"""The feature store: what encoders say about clips and texts, computed once, as content-addressed Parquet.

    ROOT/encoder=videoprism-1f3a9c0e12/part-<digest of the ids>.parquet    id, name, dtype, shape, data (flat)
    ROOT/stretches/part-<digest>.parquet                                   media/stretches.py
    ROOT/failures.parquet                                                  what could not be computed, and why

A row is one named array of one id. Ids say what the array was computed from, the partition what computed it, so two
rows with the same id, name and partition are equal and it does not matter which one is read.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from media.failures import Failure, read_failures, write_failures
from media.files import Files
from media.part_index import ATTEMPTS, PartIndex, fetch
from media.parts import FeatureError, Row, Stored, encode, make_row, part_name

__all__ = ["Failure", "FeatureError", "FeatureStore", "stretch_id", "text_id"]

# Names of the arrays, those of the released feature files where these have them. Shapes are of one clip.
VIDEO, VIDEO_GLOBAL = "video_features", "global_video_features"  # (4 per second, D), (D,)
TEXT, TEXT_GLOBAL = "text_features", "global_text_features"  # (tokens, D), (D,)
SYNC = "sync_features"  # (8 per segment, D)
AUDIO, AUDIO_SCALE = "latent", "audio_scale"  # (channels, frames) each: latent = mean + scale * noise

ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
PART_BYTES = 256 * 2**20
Arrays = dict[str, np.ndarray]


def stretch_id(sha256: str, start: float, seconds: float) -> str:
    """Id of what depends on a stretch of a video: the digest of the file's bytes, and times to a millisecond."""
    return f"{sha256}-{round(start * 1000)}-{round(seconds * 1000)}"


def text_id(text: str) -> str:
    """Id of what depends on a text alone."""
    return f"text-{hashlib.sha256(text.encode()).hexdigest()}"


class FeatureStore:
    """Features below a local folder or any fsspec URL (s3://, gs://, memory://, ...).

    Readers see a part whole or not at all. Several processes may read, write and compact at the same time. An instance
    remembers which part holds which id; it can be pickled and is not for several threads at once.
    """

    def __init__(self, root: str | Path):
        self.root = str(root)
        self._files = Files(self.root)
        self._indices: dict[str, PartIndex] = {}

    def __reduce__(self) -> tuple[type["FeatureStore"], tuple[str]]:
        return type(self), (self.root,)

    def encoders(self) -> list[str]:
        """Identities of everything that wrote here."""
        folders = self._files.folders("encoder=")
        return sorted(folder.removeprefix("encoder=") for folder in folders)

    def resolve(self, kind: str) -> str:
        """The only encoder identity that is `kind` or begins with `kind-`. Raises FeatureError unless there is one."""
        found = [name for name in self.encoders() if name == kind or name.startswith(f"{kind}-")]
        if len(found) != 1:
            listed = ", ".join(found or self.encoders()) or "nothing"
            raise FeatureError(self.root, f"expected features of one {kind} encoder, found {listed}; name the one.")
        return found[0]

    def write(self, encoder: str, rows: Mapping[str, Mapping[str, np.ndarray]], dtype: Stored = "float16") -> str:
        """Store {id: {name: array}} as one part and return its path; nothing to write returns "".

        Writing the same ids and names again replaces their part. Raises FeatureError when a value does not fit.
        """
        folder = _folder(encoder)
        made = [make_row(key, name, rows[key][name], dtype) for key in sorted(rows) for name in sorted(rows[key])]
        if not made:
            return ""
        path = f"{folder}/{part_name((row.id, row.name) for row in made)}"
        return self._files.write(path, encode(made, dtype))

    def read(self, encoder: str, ids: Iterable[str], names: Iterable[str] | None = None) -> dict[str, Arrays]:
        """{id: {name: float32 array}} in the order asked for; `names` leaves the others on the disk.

        Only the row groups that hold these ids are read. Raises FeatureError when an id or a name is not there.
        """
        wanted = list(dict.fromkeys(ids))
        only = None if names is None else set(names)
        index = self._index(encoder)
        lacking: list[str] = []
        for _ in range(ATTEMPTS):
            lacking = [
                key for key in wanted if not index.places(key) or not (only or set()) <= index.places(key).keys()
            ]
            try:
                if not lacking:
                    return fetch(self._files, index, wanted, only)
            except FileNotFoundError:
                index.clear()  # Merged since the index looked: the rows are in another part now.
            index.refresh()
        what = "" if only is None else f" ({', '.join(sorted(only))})"
        raise FeatureError(
            self._files.shown(_folder(encoder)),
            f"has no features{what} of {len(lacking)} of {len(wanted)} ids, the first {lacking[:1]}; extract or import "
            "them first.",
        )

    def missing(self, encoder: str, ids: Iterable[str], names: Iterable[str] = ()) -> list[str]:
        """Those of `ids`, in order and once each, that are not in the store with all of `names`."""
        index = self._index(encoder)
        index.refresh()
        needed = set(names)
        return [key for key in dict.fromkeys(ids) if key not in index or not needed <= index.places(key).keys()]

    def ids(self, encoder: str) -> list[str]:
        """Every id, sorted."""
        index = self._index(encoder)
        index.refresh()
        return index.ids()

    def compact(self, encoder: str, part_bytes: int = PART_BYTES) -> int:
        """Merge small parts into parts of about `part_bytes`; returns how many fewer files there are.

        A merged part is complete before its sources go. Stopped in between, some rows are there twice, which readers
        do not notice and the next call mends.
        """
        folder = _folder(encoder)
        index = PartIndex(self._files, folder)
        index.refresh()
        before = index.sizes()
        useless = index.superfluous()
        for path in useless:
            self._files.remove(path)
        small = [path for path in sorted(before) if before[path] < part_bytes / 2 and path not in useless]
        for stored in get_args(Stored):
            same = [path for path in small if index.stored(path) == stored]
            for group in _bins(same, before, part_bytes):
                self._merge(folder, group, stored)
        self._files.sweep(folder)
        return len(before) - len(self._files.parts(folder))

    def failures(self) -> list[Failure]:
        """What could not be computed the last time it was tried."""
        return read_failures(self._files)

    def record(self, failed: Iterable[Failure], done: Iterable[tuple[str, str]] = ()) -> None:
        """Keep new failures, and forget those of what has been computed since: (what, id) pairs. For one process."""
        settled = set(done)
        kept = {(f.what, f.id): f for f in self.failures() if (f.what, f.id) not in settled}
        write_failures(self._files, list({**kept, **{(f.what, f.id): f for f in failed}}.values()))

    def _merge(self, folder: str, sources: Sequence[str], stored: Stored) -> None:
        merged: dict[tuple[str, str], Row] = {}
        for path in sources:
            try:
                part = self._files.part(path)
            except FileNotFoundError:
                continue  # Another process compacts too and has merged it.
            for group in range(part.groups):
                for row in part.rows(group):
                    merged.setdefault((row.id, row.name), row)
        rows = [merged[key] for key in sorted(merged)]
        target = f"{folder}/{part_name(merged)}"
        self._files.write(target, encode(rows, stored))
        for path in sources:
            if path != target:
                self._files.remove(path)

    def _index(self, encoder: str) -> PartIndex:
        if encoder not in self._indices:
            self._indices[encoder] = PartIndex(self._files, _folder(encoder))
        return self._indices[encoder]


def _folder(encoder: str) -> str:
    if not ENCODER.fullmatch(encoder):
        raise FeatureError(
            encoder, "is no encoder identity; use letters, digits and . _ + -, as in videoprism-1f3a9c0e12."
        )
    return f"encoder={encoder}"


def _bins(paths: Sequence[str], sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Neighbours that together stay below a limit."""
    bins: list[list[str]] = [[]]
    total = 0
    for path in paths:
        if bins[-1] and total + sizes[path] > limit:
            bins.append([])
            total = 0
        bins[-1].append(path)
        total += sizes[path]
    return [group for group in bins if len(group) > 1]
