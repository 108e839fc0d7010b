"""Memory-mapped features as MMAudio has them: a TensorDict's folder, and a TSV file with an id and a text per row.

Layout: hkchengrex/MMAudio, docs/TRAINING.md and training/extract_video_training_latents.py; pytorch/tensordict,
tensordict/_td_memmap.py: meta.json describes the arrays, NAME.memmap holds each one's bytes in C order.
"""

import csv
import json
from pathlib import Path

import numpy as np

from media.parts import FeatureError

DTYPES = {"float32": "<f4", "float16": "<f2", "float64": "<f8", "bfloat16": "<u2", "int64": "<i8", "int32": "<i4"}
LABELS = ("label", "caption")


def read_memmaps(folder: str | Path) -> dict[str, np.ndarray]:
    """Arrays of the folder, on disk until they are indexed; bfloat16 is given as its bits in uint16.

    Raises FeatureError: no meta.json, other types, files that are missing or not as long as meta.json says.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        entries = {name: entry for name, entry in meta.items() if isinstance(entry, dict) and "dtype" in entry}
    except (OSError, ValueError, AttributeError) as error:
        raise FeatureError(folder, f"is no folder of memory-mapped tensors ({error}); expected a meta.json.") from error
    if not entries:
        raise FeatureError(
            folder / "meta.json", "describes no array; expected one entry with dtype and shape for each."
        )
    return {name: _open(folder / f"{name}.memmap", entry) for name, entry in entries.items()}


def as_float(array: np.ndarray) -> np.ndarray:
    """A row of `read_memmaps` in memory as float32, bfloat16 included."""
    if array.dtype == np.uint16:
        return (np.asarray(array, np.uint32) << 16).view(np.float32)
    return np.asarray(array, np.float32)


def read_table(path: str | Path) -> list[tuple[str, str]]:
    """(id, text) of every row of a TSV file with the columns id, and label or caption. Raises FeatureError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter="\t")
            columns = reader.fieldnames or []
            label = next((name for name in LABELS if name in columns), None)
            if "id" not in columns or label is None:
                raise FeatureError(path, f"has the columns {', '.join(columns)}; expected id, and label or caption.")
            return [(row["id"] or "", row[label] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FeatureError(path, f"is no TSV table of ids and labels ({error}).") from error


def _open(path: Path, entry: dict) -> np.ndarray:
    kind, shape = str(entry["dtype"]).removeprefix("torch."), tuple(entry.get("shape", ()))
    if kind not in DTYPES or entry.get("is_nested"):
        raise FeatureError(path, f"is {kind}, nested or not; expected plain tensors of {', '.join(DTYPES)}.")
    dtype = np.dtype(DTYPES[kind])
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    size = path.stat().st_size if path.is_file() else None
    if size != expected and expected:
        found = "there is no such file" if size is None else f"the file has {size}"
        raise FeatureError(path, f"should have {expected} bytes for {shape} {kind}, but {found}; copy it again.")
    return np.memmap(path, dtype, "r", shape=shape) if expected else np.zeros(shape, dtype)
