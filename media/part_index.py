"""Which part of a feature store holds which row."""

from collections.abc import Iterable

import numpy as np

from media.files import Files
from media.parts import Stored

ATTEMPTS = 8
Place = tuple[str, int]


class PartIndex:
    """Where the rows of one folder are: part and row group. Reads ids and names only, never data.

    Of a row that is in several parts, the copy in the largest is the one that counts.
    """

    def __init__(self, files: Files, folder: str):
        self._files, self._folder = files, folder
        self._sizes: dict[str, int] = {}
        self._stored: dict[str, Stored] = {}
        self._where: dict[str, dict[str, Place]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def ids(self) -> list[str]:
        """Every id, sorted."""
        return sorted(self._where)

    def places(self, key: str) -> dict[str, Place]:
        """Names of an id's arrays and where each is."""
        return self._where.get(key, {})

    def sizes(self) -> dict[str, int]:
        """Path of every part to its bytes."""
        return dict(self._sizes)

    def stored(self, path: str) -> Stored:
        """The type of a part's values."""
        return self._stored[path]

    def superfluous(self) -> list[str]:
        """Parts of which every row counts elsewhere."""
        used = {path for places in self._where.values() for path, _ in places.values()}
        return sorted(self._sizes.keys() - used)

    def refresh(self) -> None:
        """Look at parts that are new. Raises FeatureError for one that is damaged or foreign."""
        for _ in range(ATTEMPTS):
            found = self._files.parts(self._folder)
            if any(found.get(path) != size for path, size in self._sizes.items()):
                # A row of a part that is gone or rewritten may have a copy elsewhere: look at all of them again.
                self.clear()
            new = sorted(found.keys() - self._sizes.keys(), key=lambda path: (-found[path], path))
            try:
                for path in new:
                    self._add(path, found[path])
            except FileNotFoundError:
                continue  # Merged away since it was listed.
            return

    def clear(self) -> None:
        """Forget everything."""
        self._sizes.clear()
        self._stored.clear()
        self._where.clear()

    def _add(self, path: str, size: int) -> None:
        part = self._files.part(path)
        pairs = [(pair, group) for group in range(part.groups) for pair in part.pairs(group)]
        for (key, name), group in pairs:
            self._where.setdefault(key, {}).setdefault(name, (path, group))
        self._sizes[path], self._stored[path] = size, part.stored


def fetch(files: Files, index: PartIndex, wanted: Iterable[str], names: set[str] | None) -> dict[str, dict]:
    """{id: {name: float32 array}} out of the row groups that hold them.

    Raises FileNotFoundError when the parts have changed since the index looked.
    """
    groups: dict[Place, dict[str, set[str]]] = {}
    out: dict[str, dict[str, np.ndarray]] = {key: {} for key in wanted}
    for key in out:
        for name, place in index.places(key).items():
            if names is None or name in names:
                groups.setdefault(place, {}).setdefault(key, set()).add(name)
    path, part = "", None
    for (here, group), inside in sorted(groups.items(), key=lambda item: item[0]):
        if part is None or here != path:
            path, part = here, files.part(here)
        if group >= part.groups:
            raise FileNotFoundError(here)
        for row in part.rows(group, inside):
            if row.name in inside[row.id]:
                out[row.id][row.name] = row.data.astype(np.float32).reshape(row.shape)
                inside[row.id].discard(row.name)
        if any(inside.values()):
            raise FileNotFoundError(here)
    return out
