"""`prism export-features`: a feature store as the official .npz files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from media.features import AUDIO, AUDIO_SCALE, Arrays, Failure, FeatureError, FeatureStore
from media.npz import write_npz
from media.stretches import Stretch, read_stretches
from pipelines.import_features import EXTRA, NPZ


def export_npz(
    store: FeatureStore, folder: Path, encoders: Mapping[str, str] | None = None, seed: int | None = None
) -> tuple[int, list[Failure]]:
    """Write official .npz files of a store's stretches and SPLIT.txt files that list them.

    encoders: identities by kind ("videoprism", "synchformer", "oobleck", "t5gemma"), where the store has several of
    one. seed: draw the latents, as the official tools do; else their mean. Returns how many were written and what
    lacks features. Raises FeatureError.
    """
    chosen = {kind: (encoders or {}).get(kind) or store.resolve(kind) for kind in NPZ if kind != EXTRA}
    extra = [name for name in store.encoders() if name.startswith(f"{EXTRA}-")]
    chosen |= {EXTRA: extra[0]} if len(extra) == 1 else {}
    folder.mkdir(parents=True, exist_ok=True)
    listed: dict[str, list[str]] = {}
    failures = []
    for stretch in read_stretches(store.root):
        try:
            arrays = _stored(store, chosen, stretch)
        except FeatureError as error:
            failures.append(Failure("export", stretch.id, stretch.uri, error.reason))
            continue
        scale = arrays.pop(AUDIO_SCALE, None)
        if seed is not None and scale is not None:
            drawn = np.random.default_rng([seed, *hashlib.sha256(stretch.id.encode()).digest()])
            arrays[AUDIO] = arrays[AUDIO] + scale * drawn.standard_normal(scale.shape, np.float32)
        name = stretch.clip if stretch.start == 0 else f"{stretch.clip}@{stretch.start:.2f}"
        name = name.replace("/", "_")
        write_npz(folder / f"{name}.npz", {"id": name, "video_path": stretch.uri, "caption_cot": stretch.text}, arrays)
        listed.setdefault(stretch.split, []).append(f"{name}.npz\n")
    for split, lines in listed.items():
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return sum(map(len, listed.values())), failures


def _stored(store: FeatureStore, encoders: Mapping[str, str], stretch: Stretch) -> Arrays:
    arrays: Arrays = {}
    for kind, encoder in encoders.items():
        key = stretch.text_id if NPZ[kind][0] else stretch.id
        if kind != EXTRA or not store.missing(encoder, [key]):
            arrays |= store.read(encoder, [key])[key]
    return arrays
