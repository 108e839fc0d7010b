"""Whether rewards prefer a clip's own sound to the same sound spoiled, and by how much.

Run: python -m benchmarks.ranking VIDEOS --out runs/ranking.json
Of the scorers that need no released weights: the four embedded ones, `onsets` and `stereo`. Procedural scenes have
known impacts and places; of the videos in a folder only what their picture shows is known (captions as `prism train`
takes them).
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from benchmarks.corruptions import concerning, corrupted, others
from benchmarks.tables import table
from cot_service.analysis_planner import AnalysisPlanner
from media.manifest import scan_folder
from pipelines.segments import MAX_SECONDS, read_segments
from rewards_service.build import build_scorer
from rewards_service.config import DIMENSIONS, ScorerConfig
from rewards_service.scores import Reference, Scorer
from scenes.sound import SAMPLE_RATE, render
from scenes.world import FPS, SECONDS, make_scene, scene_seed
from settings import PrismError

BETTER_BY = 1e-6
UNCHANGED = 1e-3
"""Difference to the original over the original, in RMS: −60 dB."""


@dataclass(frozen=True)
class Example:
    """A clip's own (2, S) sound with what it is judged against. label: what sounds, as far as it is known."""

    reference: Reference
    sound: np.ndarray
    label: str


@dataclass(frozen=True)
class Ranked:
    """One fault as one scorer hears it.

    score, drop: means over `clips` of the original's score and of what the fault costs. ranked: share of the clips
    whose original scores higher. gated: further clips that the dimension says nothing about. unchanged: further clips
    that the fault leaves as they are, such as mono ones swapped.
    """

    scorer: str
    dimension: str
    corruption: str
    clips: int
    gated: int
    unchanged: int
    score: float | None
    drop: float | None
    ranked: float | None


def scorers() -> dict[str, tuple[str, Scorer]]:
    """Every scorer that judges without released weights, with its dimension."""
    found = {f"{name} (embedded)": (name, build_scorer(name)) for name in DIMENSIONS}
    free = {"onsets": "temporal", "stereo": "spatial"}
    return found | {name: (d, build_scorer(d, ScorerConfig(scorer=name))) for name, d in free.items()}


def rank(name: str, dimension: str, scorer: Scorer, examples: Sequence[Example], rate: int) -> list[Ranked]:
    """How a scorer ranks every fault that its dimension must notice. Raises PrismError for a missing score."""
    faults = concerning(dimension)
    turn = others([example.label for example in examples])
    values = np.full((len(examples), 1 + len(faults)), np.nan)
    changed = np.ones((len(examples), len(faults)), bool)
    for row, (example, other) in enumerate(zip(examples, turn, strict=True)):
        spoiled = corrupted(example.sound, rate, examples[other].sound)
        sounds = np.stack([example.sound, *(spoiled[fault] for fault in faults)]).astype(np.float32)
        scores = scorer.score(sounds[None], rate, [example.reference])
        if scores.missing:
            raise PrismError(f"{name} gave no score for {example.reference.clip_id}: {scores.missing}.")
        values[row] = scores.values[0]
        size = np.sqrt(np.mean((sounds[1:] - sounds[0]) ** 2, axis=(1, 2)))
        changed[row] = size > UNCHANGED * np.sqrt(np.mean(sounds[0] ** 2))
    judged = ~np.isnan(values[:, 0])
    found = []
    for k, fault in enumerate(faults):
        used = judged & changed[:, k]
        original, drop = values[used, 0], values[used, 0] - values[used, 1 + k]
        unchanged = int((judged & ~changed[:, k]).sum())
        means = [float(part.mean()) if used.any() else None for part in (original, drop, drop > BETTER_BY)]
        found.append(Ranked(name, dimension, fault, int(used.sum()), int((~judged).sum()), unchanged, *means))
    return found


def procedural(count: int, folder: Path, split: str = "ranking") -> list[Example]:
    """Scenes with known truth; their sounds are written to `folder`, where scorers look references up."""
    times = np.arange(round(SECONDS * FPS)) / FPS
    found = []
    for index in range(count):
        scene = make_scene(scene_seed(split, 0, index))
        sound, path = render(scene), folder / f"{split}{index}.wav"
        wavfile.write(path, SAMPLE_RATE, sound.T)
        positions = tuple(float(x) for x in scene.position(times))
        reference = Reference(path.stem, scene.caption, SECONDS, scene.events, positions, FPS, uri=str(path))
        found.append(Example(reference, sound, scene.material.label))
    return found


def recorded(folder: Path) -> list[Example]:
    """The videos of a folder that have sound, whole. Raises PrismError for a folder without any."""
    found, _ = read_segments(scan_folder(folder)[0], AnalysisPlanner(), MAX_SECONDS, SAMPLE_RATE)
    heard = [segment for segment in found if segment.clip.waveform is not None and np.any(segment.clip.waveform)]
    examples = []
    for segment in heard:
        sound = segment.clip.waveform
        assert sound is not None
        examples.append(Example(segment.reference, np.asarray(sound, np.float32), segment.id))
    return examples


def measure(sets: Mapping[str, Sequence[Example]]) -> list[dict[str, Any]]:
    """Every scorer on every set of clips: rows of `Ranked` with the set's name."""
    return [
        {"set": which, **vars(row)}
        for which, examples in sets.items()
        for name, (dimension, scorer) in scorers().items()
        for row in rank(name, dimension, scorer, examples, SAMPLE_RATE)
    ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row per scorer and fault; per set of clips the original's score, the drop, and how many are ranked right."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    head = ["scorer", "fault"]
    for which in sets:
        head += [f"{which}: original", "drop", "right"]
    by_place = {(row["scorer"], row["corruption"], row["set"]): row for row in rows}
    body = []
    for scorer, fault in dict.fromkeys((row["scorer"], row["corruption"]) for row in rows):
        line = [scorer, fault]
        for which in sets:
            line += _cells(by_place.get((scorer, fault, which)))
        body.append(line)
    return table(head, body)


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["–"] * 3
    left_out = [f"{row[key]} {key}" for key in ("gated", "unchanged") if row[key]]
    if not row["clips"]:
        return ["–", "–", ", ".join(left_out)]
    right = round(row["ranked"] * row["clips"])
    text = f"{right} of {row['clips']}"
    text = ", ".join([text if right == row["clips"] else f"**{text}**", *left_out])
    return [f"{row['score']:.3f}", f"{row['drop']:+.3f}".replace("-", "−"), text]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "clips", type=Path, nargs="?", help="folder of videos with sound; procedural scenes alone without"
    )
    parser.add_argument("--scenes", type=int, default=128, help="procedural scenes")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        sets: dict[str, Sequence[Example]] = {f"{options.scenes} scenes": procedural(options.scenes, Path(folder))}
        if options.clips is not None:
            videos = recorded(options.clips)
            sets[f"{len(videos)} videos"] = videos
        rows = measure(sets)
    print(markdown(rows))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
