"""metrics.jsonl: one line per finished iteration, and no line of an iteration that is trained again."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends records to a JSON-lines file and cuts it back when a run resumes before its end."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Write one record as one line. NaN becomes null, which JSON can hold."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(record), allow_nan=False) + "\n")

    def rewind(self, iteration: int) -> None:
        """Forget every record from `iteration` on, and a last line that was cut short. The file is swapped in whole."""
        if not self.path.exists():
            return
        kept = [record for record in self.records() if record["iteration"] < iteration]
        handle, name = tempfile.mkstemp(prefix=".metrics.", suffix=".tmp", dir=self.path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        os.chmod(name, 0o644)
        os.replace(name, self.path)

    def records(self) -> list[dict[str, Any]]:
        """All complete records, in order; none when the file is not there."""
        if not self.path.exists():
            return []
        return list(_parse(self.path.read_text(encoding="utf-8")))


class Follower:
    """Reads a journal that another process writes, from one iteration on."""

    def __init__(self, journal: Journal, iteration: int = 0):
        self.journal = journal
        self.next = iteration
        self._file = (0, 0)

    def new(self) -> list[dict[str, Any]]:
        """Records not seen before. After a rewind the iterations that are trained again do not come a second time."""
        try:
            with open(self.journal.path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                # A rewind swaps the file, so what was read of the old one does not count.
                offset = self._file[1] if self._file[0] == inode else 0
                file.seek(offset)
                complete = b"".join(file.read().rpartition(b"\n")[:2])
        except FileNotFoundError:
            return []
        self._file = inode, offset + len(complete)
        fresh = [record for record in _parse(complete.decode()) if record["iteration"] >= self.next]
        if fresh:
            self.next = fresh[-1]["iteration"] + 1
        return fresh


def _parse(text: str) -> Iterator[dict[str, Any]]:
    complete, _, _ = text.rpartition("\n")
    for line in complete.splitlines():
        yield json.loads(line)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
