"""Files of a store below a local folder or an fsspec URL."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from media.errors import NotWritable
from media.parts import Part

STALE_S = 3600.0


class Files:
    """Paths are relative to the root. A file appears complete or not at all."""

    def __init__(self, root: str):
        self._fs, base = url_to_fs(root)
        self._root = base.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def shown(self, path: str) -> str:
        """A path as a message names it."""
        return f"{self._root}/{path}" if self._local else self._fs.unstrip_protocol(f"{self._root}/{path}")

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders right below the root that begin with `prefix`."""
        names = [(Path(entry["name"]).name, entry["type"]) for entry in self._list("")]
        return [name for name, kind in names if kind == "directory" and name.startswith(prefix)]

    def parts(self, folder: str) -> dict[str, int]:
        """Path to size of every complete part of a folder."""
        names = {Path(entry["name"]).name: int(entry["size"] or 0) for entry in self._list(folder)}
        return {f"{folder}/{n}": size for n, size in names.items() if n.endswith(".parquet") and not n.startswith(".")}

    def part(self, path: str) -> Part:
        """Open a part. Raises FileNotFoundError, and FeatureError when it is damaged or foreign."""
        return Part(self.shown(path), self.open(path))

    def open(self, path: str) -> Any:
        """A pyarrow input file. Raises FileNotFoundError."""
        full = f"{self._root}/{path}"
        return pa.memory_map(full) if self._local else pa.PythonFile(self._fs.open(full, "rb"), mode="r")

    def write(self, path: str, data: bytes) -> str:
        """Put a file in place and return its shown path. Raises NotWritable.

        Locally by renaming; object stores make an object visible only when it is whole.
        """
        full = f"{self._root}/{path}"
        try:
            if self._local:
                self._replace(Path(full), data)
            else:
                self._fs.makedirs(os.path.dirname(full), exist_ok=True)
                self._fs.pipe_file(full, data)
        except OSError as error:
            raise NotWritable(
                self.shown(path), f"cannot be written ({error}); check the folder and the disk."
            ) from error
        return self.shown(path)

    def remove(self, path: str) -> None:
        """Remove a file that may be gone already."""
        try:
            self._fs.rm_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return

    def sweep(self, folder: str) -> None:
        """Remove what writers that died an hour ago left behind."""
        for path in Path(self._root, folder).glob(".*.partial") if self._local else ():
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)

    def _list(self, folder: str) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()
        try:
            return self._fs.ls(f"{self._root}/{folder}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return []

    def _replace(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
