"""Scenes as files: H.264 video with a stereo sound track, and a Parquet manifest that carries the truth."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from media.manifest import ClipRecord, read_manifest, write_manifest
from media.writing import write_clip
from scenes import picture, sound
from scenes.config import ScenesConfig
from scenes.corruption import corrupt
from scenes.world import FPS, SECONDS, Scene, make_scene, scene_seed

MANIFEST = "clips.parquet"
VERSION = 2  # raised whenever the same seed would draw or render anything else


def record(scene: Scene, path: Path, split: str) -> ClipRecord:
    """The manifest row of a rendered scene."""
    times = np.arange(round(SECONDS * FPS)) / FPS
    return ClipRecord(
        id=path.stem,
        uri=str(path),
        seconds=SECONDS,
        fps=FPS,
        n_frames=len(times),
        sample_rate=sound.SAMPLE_RATE,
        channels=2,
        caption=scene.caption,
        split=split,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        label=scene.material.label,
        events=scene.events,
        positions=tuple(float(x) for x in scene.position(times)),
        position_fps=FPS,
    )


def build(
    folder: Path,
    split: str,
    count: int,
    config: ScenesConfig,
    clean_text: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ClipRecord]:
    """Render `count` scenes of a split into `folder`, or read them back when they are already there, whole.

    clean_text: what a planner writes about a recording; when given, the sound tracks are corrupted, otherwise clean.
    """
    folder = folder.resolve()
    manifest = folder / MANIFEST
    if manifest.exists():
        return read_manifest(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        scene = _scene(split, index, config, clean_text)
        clean = sound.render(scene) if clean_text is None else corrupt(scene, config.corruption, clean_text).waveform
        path = folder / f"{split}-{index:05d}.mp4"
        write_clip(path, picture.render(scene), FPS, clean, sound.SAMPLE_RATE, audio_codec="flac")
        records.append(record(scene, path, split))
        on_progress(index + 1, count)
    write_manifest(manifest, records)
    return read_manifest(manifest)  # exactly what a later run will read


def described(split: str, count: int, config: ScenesConfig, clean_text: str) -> list[str]:
    """What is said about each corrupted recording of a split: its aesthetic text, in the order of `build`."""
    scenes = (_scene(split, index, config, clean_text) for index in range(count))
    return [corrupt(scene, config.corruption, clean_text).aesthetic for scene in scenes]


def _scene(split: str, index: int, config: ScenesConfig, clean_text: str | None) -> Scene:
    quiet = 0.0 if clean_text is None else config.quiet
    return make_scene(scene_seed(split, config.seed, index), quiet)


def folder_name(split: str, count: int, config: ScenesConfig) -> str:
    """Cache folder of a split; changes with anything that changes its content."""
    key = f"{VERSION}|{split}|{count}|{config.seed}|{config.quiet}|{config.corruption.model_dump_json()}"
    return f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
