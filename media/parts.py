"""One Parquet file of features: building its bytes, looking up what it holds, reading rows out of it."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from media.errors import MediaError

Stored = Literal["float16", "float32"]
COLUMNS = ("id", "name", "dtype", "shape", "data")
# A read fetches whole row groups: their size is what one random clip costs.
GROUP_ROWS = 128
GROUP_BYTES = 4 * 2**20
DAMAGED = "delete it and run the extraction or import again, which computes only what is missing"


class FeatureError(MediaError):
    """Features that cannot be stored or read: a damaged or foreign file, values that do not fit, an unknown id."""


@dataclass(frozen=True)
class Row:
    """One array. data: flat, float16 or float32, as it is stored."""

    id: str
    name: str
    shape: tuple[int, ...]
    data: np.ndarray


def make_row(key: str, name: str, array: np.ndarray, stored: Stored) -> Row:
    """A row out of any numeric array.

    Raises FeatureError for empty names, NaN or infinity, values beyond the stored type, and whole numbers that it
    would round.
    """
    if not key or not name or not _unicode(key + name):
        raise FeatureError(repr(key), f"features need an id and a name in Unicode, got {key!r} and {name!r}.")
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise FeatureError(key, f"{name} is an array of {array.dtype}; expected numbers.")
    if not np.isfinite(array).all():
        raise FeatureError(key, f"{name} holds NaN or infinity; find out why the encoder gave it, nothing was stored.")
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(array).astype(stored).reshape(-1)
    if not np.isfinite(data).all():
        raise FeatureError(
            key, f"{name} reaches {np.abs(array).max():.4g}, more than {stored} holds; store it as float32."
        )
    if array.dtype.kind in "iu" and (data.astype(np.float64) != array.reshape(-1)).any():
        raise FeatureError(key, f"{name} holds whole numbers that {stored} rounds; store it as float32.")
    return Row(key, name, array.shape, data)


def _unicode(text: str) -> bool:
    """No lone surrogates, as names of files with undecodable bytes have."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def part_name(pairs: Iterable[tuple[str, str]]) -> str:
    """File name of the part that holds these (id, name) pairs: a retried task writes the same file again."""
    digest = hashlib.sha256()
    for pair in sorted(set(pairs)):
        for text in pair:
            raw = text.encode()
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return f"part-{digest.hexdigest()[:20]}.parquet"


def encode(rows: Iterable[Row], stored: Stored) -> bytes:
    """The Parquet file of rows that are all of one stored type; the same rows give the same bytes."""
    sink = io.BytesIO()
    # Features do not repeat: a dictionary of their values would only cost time.
    options: dict[str, Any] = {"use_dictionary": ["name", "dtype"], "write_page_checksum": True}
    with pq.ParquetWriter(sink, schema(stored), compression="zstd", **options) as writer:
        for group in _groups(rows):
            writer.write_table(_table(group, stored), row_group_size=len(group))
    return sink.getvalue()


def schema(stored: Stored) -> pa.Schema:
    """id, name, dtype, shape, data."""
    number = pa.float16() if stored == "float16" else pa.float32()
    types = (pa.string(), pa.string(), pa.string(), pa.list_(pa.int32()), pa.list_(number))
    return pa.schema([pa.field(column, kind, nullable=False) for column, kind in zip(COLUMNS, types, strict=True)])


class Part:
    """An open part. Every error of the file becomes a FeatureError that names it."""

    def __init__(self, path: str, source: Any):
        self.path = path
        try:
            self._file = pq.ParquetFile(source, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        found = {field.name: field.type for field in self._file.schema_arrow}
        kinds: dict[pa.DataType, Stored] = {pa.float16(): "float16", pa.float32(): "float32"}
        stored = kinds.get(getattr(found.get("data"), "value_type", None))
        if not set(COLUMNS) <= set(found) or stored is None:
            listed = ", ".join(f"{name} {kind}" for name, kind in found.items())
            raise FeatureError(path, f"is not a part of a feature store (it has {listed}); move it out of the store.")
        self.stored: Stored = stored

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return self._file.num_row_groups

    def pairs(self, group: int) -> list[tuple[str, str]]:
        """The (id, name) of every row of a group, without reading data."""
        table = self._read(group, ["id", "name"])
        return list(zip(table["id"].to_pylist(), table["name"].to_pylist(), strict=True))

    def rows(self, group: int, wanted: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """Rows of a group; only those of the ids in `wanted` when it is given. The data are views."""
        table = self._read(group, ["id", "name", "shape", "data"]).combine_chunks()
        ids, names = table["id"].to_pylist(), table["name"].to_pylist()
        shapes, lists = table["shape"], table["data"].chunk(0) if len(ids) else None
        if lists is None:
            return
        ends = lists.offsets.to_numpy()
        values = lists.values.to_numpy(zero_copy_only=False)
        for place, (key, name) in enumerate(zip(ids, names, strict=True)):
            if wanted is None or key in wanted:
                shape = tuple(shapes[place].as_py())
                data = values[ends[place] : ends[place + 1]]
                if data.size != int(np.prod(shape, dtype=np.int64)):
                    raise FeatureError(
                        self.path, f"says {name} of {key} is {shape} but holds {data.size} values; {DAMAGED}."
                    )
                yield Row(key, name, shape, data)

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> FeatureError:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return FeatureError(self.path, f"is damaged or no Parquet file ({first}); {DAMAGED}.")


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and (len(group) == GROUP_ROWS or size + row.data.nbytes > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.data.nbytes
    if group:
        yield group


def _table(rows: list[Row], stored: Stored) -> pa.Table:
    ends = np.cumsum([0] + [row.data.size for row in rows])
    if ends[-1] > np.iinfo(np.int32).max:
        raise FeatureError(rows[0].id, f"{rows[0].name} has {ends[-1]} values; a row holds at most 2^31 - 1.")
    values = pa.array(np.concatenate([row.data for row in rows]))
    columns = [
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.name for row in rows], pa.string()),
        pa.array([stored] * len(rows), pa.string()),
        pa.array([list(row.shape) for row in rows], pa.list_(pa.int32())),
        pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values),
    ]
    return pa.Table.from_arrays(columns, schema=schema(stored))
