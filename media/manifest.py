"""The Parquet table of clips, and how a folder of videos becomes one."""

import csv
import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from media.errors import ManifestError, MediaError, MissingFile
from media.video import probe

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
CAPTIONS = "captions.csv"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("n_frames", pa.int32(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("channels", pa.int32(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("events", pa.list_(pa.float64())),
        pa.field("positions", pa.list_(pa.float32())),
        pa.field("position_fps", pa.float64()),
    ]
)


@dataclass(frozen=True)
class ClipRecord:
    """One row of the clip table.

    uri: path of the video. seconds, fps, n_frames: of the picture. sample_rate, channels: 0 without sound.
    label, events (seconds), positions (-1 left to 1 right, at position_fps Hz): the truth, where it is known.
    """

    id: str
    uri: str
    seconds: float
    fps: float
    n_frames: int
    sample_rate: int
    channels: int
    caption: str | None
    split: str
    sha256: str
    label: str | None = None
    events: tuple[float, ...] | None = None
    positions: tuple[float, ...] | None = None
    position_fps: float | None = None


@dataclass(frozen=True)
class Rejected:
    """A file of a scanned folder that cannot be used, and why."""

    path: str
    reason: str


def write_manifest(path: str | Path, records: list[ClipRecord]) -> None:
    """Write the table; URIs inside its folder are stored relative to it, so that the folder can move.

    Raises ManifestError for repeated ids or when the file cannot be written.
    """
    path = Path(path)
    ids = [record.id for record in records]
    repeated = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise ManifestError(path, f"clip ids must be unique, but {', '.join(repeated[:5])} appear more than once.")
    base = path.resolve().parent
    rows = [asdict(replace(record, uri=_relative(record.uri, base))) for record in records]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
        os.replace(partial, path)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(path, f"cannot be written ({error}).") from error
    finally:
        partial.unlink(missing_ok=True)


def read_manifest(path: str | Path) -> list[ClipRecord]:
    """All rows, with absolute URIs. Raises MissingFile and ManifestError (not Parquet, other columns)."""
    path = Path(path)
    if not path.is_file():
        raise MissingFile(path, "no such clip table; make one or name a folder of videos.")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(path, f"is not a Parquet clip table ({error}).") from error
    missing = sorted(set(SCHEMA.names) - set(table.column_names))
    if missing:
        raise ManifestError(path, f"lacks the columns {', '.join(missing)}; expected {', '.join(SCHEMA.names)}.")
    try:
        rows = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise ManifestError(path, f"has columns of other types ({error}).") from error
    base = path.resolve().parent
    return [_record(row, base) for row in rows]


def scan_folder(folder: str | Path) -> tuple[list[ClipRecord], list[Rejected]]:
    """Every mp4, mov, mkv and webm below `folder`, in path order, and the files that cannot be used.

    Captions come from `captions.csv` (columns `file` or `id`, and `caption`) or from a text file beside the video.
    Raises MissingFile, and ManifestError when it is no folder or holds no usable video.
    """
    folder = Path(folder)
    if not folder.exists():
        raise MissingFile(folder, "no such folder; check the path.")
    if not folder.is_dir():
        raise ManifestError(folder, "is a file; name the folder that holds the videos.")
    captions = _read_captions(folder)
    records: list[ClipRecord] = []
    rejected: list[Rejected] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")):
        try:
            records.append(_describe(path, folder, captions))
        except MediaError as error:
            rejected.append(Rejected(str(path), error.reason))
    if not records and not rejected:
        raise ManifestError(folder, f"holds no video; put files ending in {', '.join(SUFFIXES)} there.")
    if not records:
        first = rejected[0]
        raise ManifestError(folder, f"none of its {len(rejected)} videos can be used: {first.path}: {first.reason}")
    return records, rejected


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(path: Path, folder: Path, captions: dict[str, str]) -> ClipRecord:
    found = probe(path)
    name = path.relative_to(folder).as_posix()
    identity = name.removesuffix(path.suffix)
    keys = (name, identity, path.name, path.stem)
    caption = next((captions[key] for key in keys if key in captions), None)
    sidecar = path.with_suffix(".txt")
    if caption is None and sidecar.is_file():
        caption = sidecar.read_text(encoding="utf-8", errors="replace").strip() or None
    frames = max(1, round(found.seconds * found.fps))
    return ClipRecord(
        id=identity,
        uri=str(path.resolve()),
        seconds=found.seconds,
        fps=found.fps,
        n_frames=frames,
        sample_rate=found.sample_rate,
        channels=found.channels,
        caption=caption,
        split="train",
        sha256=sha256_of(path),
    )


def _read_captions(folder: Path) -> dict[str, str]:
    path = folder / CAPTIONS
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or [] if name]
        key = next((name for name in ("file", "id") if name in columns), None)
        if key is None or "caption" not in columns:
            raise ManifestError(path, f"expected the columns file (or id) and caption, got {', '.join(columns)}.")
        return {row[key].strip(): row["caption"].strip() for row in reader if row[key] and row["caption"]}


def _relative(uri: str, base: Path) -> str:
    path = Path(uri)
    return path.relative_to(base).as_posix() if path.is_absolute() and path.is_relative_to(base) else uri


def _record(row: dict, base: Path) -> ClipRecord:
    truth = {name: tuple(row[name]) if row[name] is not None else None for name in ("events", "positions")}
    uri = row["uri"] if "://" in row["uri"] else str(base / row["uri"])
    return ClipRecord(**{**row, **truth, "uri": uri})
