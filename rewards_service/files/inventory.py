"""Which files of released models a folder holds, whether they are what they should be, and what is missing.

Only names and shapes are read, never values, and no code in a file is run; checksums read every byte once.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rewards_service.errors import RewardError
from rewards_service.files.known_files import KNOWN, KnownFile

State = Literal["whole", "wrong", "missing"]
DEPTH = 4
CHUNK = 2**20
COLOURS = {"whole": "green", "wrong": "red"}


@dataclass(frozen=True)
class Entry:
    """One known file: whole, missing, or there but not what it should be, with the reason.

    path: relative to the folder looked in. bytes: of the file, or of all files of a model's folder. parameters: number
    of values in its tensors. sha256: of each file of weights. published: the known md5 "equals" the file's, "differs",
    or "" where none is known. The rest as in `KnownFile`.
    """

    name: str
    state: State
    used_by: str
    option: str
    licence: str
    source: str
    path: str = ""
    reason: str = ""
    bytes: int = 0
    parameters: int = 0
    sha256: dict[str, str] = field(default_factory=dict)
    published: Literal["equals", "differs", ""] = ""


@dataclass(frozen=True)
class Inventory:
    """What was found in `folder`. others: files and folders that belong to no known model."""

    folder: Path
    entries: tuple[Entry, ...]
    others: tuple[str, ...]


def inspect(folder: str | Path, checksums: bool = True) -> Inventory:
    """Look for every known file in a folder and the folders in it, four deep.

    Raises RewardError when there is no such folder. Whatever is wrong with a file is said in its entry.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RewardError(f"There is no folder {folder}; name the one that holds the weights.")
    found: dict[str, list[Entry]] = {known.name: [] for known in KNOWN}
    others = []
    for path, known in _walk(folder):
        if known is None:
            others.append(str(path.relative_to(folder)))
        else:
            found[known.name].append(_entry(known, path, folder, checksums))
    entries = [entry for known in KNOWN for entry in found[known.name] or [_missing(known)]]
    return Inventory(folder, tuple(entries), tuple(others))


def as_dict(inventory: Inventory) -> dict[str, Any]:
    """Everything in plain JSON types."""
    return {
        "folder": str(inventory.folder),
        "files": [asdict(entry) for entry in inventory.entries],
        "others": list(inventory.others),
    }


def table(inventory: Inventory) -> Group:
    """What is there and what is missing as Rich tables, then what is wrong with which file, and how many others."""
    there = [entry for entry in inventory.entries if entry.state != "missing"]
    missing = [entry for entry in inventory.entries if entry.state == "missing"]
    parts: list[RenderableType] = []
    if there:
        shown = _columns(f"Weights in {inventory.folder}", ("file", "state", "content", "for", "licence"))
        for entry in there:
            state = Text(entry.state, COLOURS[entry.state])
            shown.add_row(entry.path, state, _content(entry), _use(entry), entry.licence)
        parts.append(shown)
        parts += [Text(f"{e.path}: {e.reason}", COLOURS[e.state]) for e in there if e.reason]
    if missing:
        shown = _columns(f"Missing in {inventory.folder}", ("file", "for", "licence", "published as"))
        for entry in missing:
            shown.add_row(entry.name, _use(entry), entry.licence, entry.source)
        parts.append(shown)
    if inventory.others:
        names = ", ".join(inventory.others[:5]) + (", ..." if len(inventory.others) > 5 else "")
        parts.append(Text(f"{len(inventory.others)} of no known model: {names}", "dim"))
    return Group(*parts)


def _columns(title: str, names: tuple[str, ...]) -> Table:
    shown = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in names:
        shown.add_column(name, overflow="fold")
    return shown


def _use(entry: Entry) -> str:
    return entry.used_by + (f"\n{entry.option}" if entry.option else "")


def _content(entry: Entry) -> str:
    told = [_size(entry.bytes)]
    if entry.parameters:
        told.append(f"{entry.parameters / 1e6:.1f} M values")
    told += [f"sha256 {digest[:12]}" for digest in list(entry.sha256.values())[:1]]
    if entry.published:
        told.append("as published" if entry.published == "equals" else "not as published")
    return "\n".join(told)


def _walk(folder: Path, depth: int = DEPTH) -> Iterator[tuple[Path, KnownFile | None]]:
    """Paths with the known file each is; a model's folder is one, and what else is in it is not told."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        yield folder, None
        return
    for path in inside:
        if path.name.startswith("."):
            continue
        known = next((known for known in KNOWN if known.matches(path)), None)
        if known is None and path.is_dir() and depth > 1 and not _is_cache(path):
            yield from _walk(path, depth - 1)
        else:
            yield path, known


def _is_cache(folder: Path) -> bool:
    """Whether a folder is a Hugging Face cache, which packages look into by themselves."""
    return any(folder.glob("models--*"))


def _missing(known: KnownFile) -> Entry:
    return Entry(known.name, "missing", known.used_by, known.option, known.licence, known.published)


def _entry(known: KnownFile, path: Path, folder: Path, checksums: bool) -> Entry:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    weights = [file for file in files if not path.is_dir() or file.suffix in (".safetensors", ".bin")]
    state, reason, parameters, size = "whole", "", 0, 0
    sha256: dict[str, str] = {}
    published: Literal["equals", "differs", ""] = ""
    try:
        size = sum(file.stat().st_size for file in files)
        if checksums:
            digests = {file.name: _digests(file, bool(known.md5)) for file in weights}
            sha256 = {name: sha for name, (sha, _) in digests.items()}
            # A published checksum is of the file as it was published, not of the same tensors in another format.
            if known.md5 and path.suffix == Path(known.name).suffix:
                published = "equals" if digests[path.name][1].startswith(known.md5) else "differs"
        parameters = sum(math.prod(shape) for shape in known.recognise(path).values())
    except (RewardError, OSError) as error:
        state, reason = "wrong", str(error).removeprefix(f"{path} ")
    return Entry(
        known.name,
        state,
        known.used_by,
        known.option,
        known.licence,
        known.published,
        str(path.relative_to(folder)),
        reason,
        size,
        parameters,
        sha256,
        published,
    )


def _digests(file: Path, md5_too: bool) -> tuple[str, str]:
    """sha256 and, if asked for, md5 of a file, read once."""
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            sha.update(chunk)
            if md5_too:
                md5.update(chunk)
    return sha.hexdigest(), md5.hexdigest() if md5_too else ""


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
