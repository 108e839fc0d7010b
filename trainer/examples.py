"""Which stored features make a training example, and which of them are held out."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.dataset as ds
from fsspec.core import url_to_fs
from pyarrow.fs import FSSpecHandler, PyFileSystem

from media.features import AUDIO, SYNC, TEXT, VIDEO, FeatureError, FeatureStore, text_id
from media.stretches import Stretch
from settings import PrismError, Section

Text = Literal["plan", "caption"]


class EncoderNames(Section):
    """Whose features are read: an identity such as videoprism-1f3a9c0e12, or its kind where the store has one of it."""

    video: str = "videoprism"
    sync: str = "synchformer"
    text: str = "t5gemma"
    audio: str = "oobleck"

    def resolve(self, store: FeatureStore) -> "EncoderNames":
        """The identities. Raises FeatureError where the store holds none or several of a kind."""
        return EncoderNames(**{part: store.resolve(kind) for part, kind in self.model_dump().items()})


@dataclass(frozen=True)
class Example:
    """One training example by its ids in the store.

    clip: of video, sync and audio features. tokens: of the text. seen: whether there is a picture; without one, the
    video paths are nulled as guidance nulls them.
    """

    clip: str
    text: str
    tokens: int
    seen: bool = True
    heldout: bool = False


@dataclass(frozen=True)
class Found:
    """Examples of a store. left_out: (clip, reason) of the stretches that lack something."""

    examples: tuple[Example, ...]
    left_out: tuple[tuple[str, str], ...]


def find_examples(
    store: FeatureStore,
    encoders: EncoderNames,
    stretches: Iterable[Stretch],
    text: Text = "plan",
    heldout_share: float = 0.01,
    without_picture: bool = False,
) -> Found:
    """Every stretch with all features, in order of ids.

    text: whose features condition the model, the plan's or the caption's. heldout_share: of the clips, chosen by their
    ids, where the table of stretches has no split but "train". without_picture: also take stretches that have neither
    video nor sync features. Raises FeatureError for a damaged store.
    """
    rows = {s.id: s for s in stretches}
    texts = {s.id: text_id(s.text if text == "plan" else s.caption or "") for s in rows.values()}
    tokens = token_counts(store, encoders.text)
    without = {
        name: set(store.missing(encoder, rows, [name]))
        for encoder, name in ((encoders.video, VIDEO), (encoders.sync, SYNC), (encoders.audio, AUDIO))
    }
    heldout = _heldout(rows.values(), heldout_share)
    examples: list[Example] = []
    left_out: list[tuple[str, str]] = []
    for key, stretch in sorted(rows.items()):
        lacking = [name for name in without if key in without[name]] + ([TEXT] if texts[key] not in tokens else [])
        unseen = without_picture and lacking == [VIDEO, SYNC]
        if lacking and not unseen:
            left_out.append((key, f"{stretch.uri} at {stretch.start:g} s has no {', '.join(lacking)}"))
            continue
        examples.append(Example(key, texts[key], tokens[texts[key]], not unseen, stretch.clip in heldout))
    return Found(tuple(examples), tuple(left_out))


def token_counts(store: FeatureStore, encoder: str) -> dict[str, int]:
    """{text id: tokens} of every text of a store, without reading its features. Raises FeatureError."""
    fs, root = url_to_fs(store.root)
    place = f"{root.rstrip('/')}/encoder={encoder}"
    try:
        source = PyFileSystem(FSSpecHandler(fs))
        parts = ds.dataset(place, filesystem=source, format="parquet")
        table = parts.to_table(["id", "shape"], filter=ds.field("name") == TEXT)
    except (OSError, pa.ArrowException) as error:
        raise FeatureError(place, f"cannot be read ({error}); extract the features of the texts first.") from error
    shapes = zip(table["id"].to_pylist(), table["shape"].to_pylist(), strict=True)
    return {key: shape[0] for key, shape in shapes if len(shape) == 2}


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """One JSON line per example."""
    path.write_text("".join(json.dumps(vars(example)) + "\n" for example in examples), encoding="utf-8")


def read_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote. Raises PrismError."""
    try:
        return [Example(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise PrismError(f"{path} is not the list of a run's training examples ({error}).") from error


def _heldout(stretches: Iterable[Stretch], share: float) -> set[str]:
    """Clips that are held out: those of another split than train, else a share of all, the same for every run."""
    found = list(stretches)
    other = {s.clip for s in found if s.split != "train"}
    if other or share <= 0:
        return other
    ranked = sorted((hashlib.sha256(clip.encode()).digest(), clip) for clip in {s.clip for s in found})
    chosen = {clip for digest, clip in ranked if int.from_bytes(digest[:8], "big") < share * 2**64}
    # A set too small to have one below the threshold holds out one clip, if that leaves something to train on.
    return chosen or {clip for _, clip in ranked[:1] if len(ranked) > 1}
