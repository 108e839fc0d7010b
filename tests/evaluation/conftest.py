"""A few procedural scenes with their clean sound, and a forged run folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.samples import SampleRecord, save_sample
from media.writing import write_clip
from rewards_service.scores import Reference
from scenes import picture, sound
from scenes.world import FPS, Scene, make_scene, scene_seed

DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial")
RATE = sound.SAMPLE_RATE


def reference(scene: Scene, name: str) -> Reference:
    positions = tuple(float(x) for x in scene.position(np.arange(32) / FPS))
    return Reference(name, scene.caption, 2.0, scene.events, positions, FPS)


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [make_scene(scene_seed("evaluation-tests", 0, i)) for i in range(24)]


@pytest.fixture(scope="session")
def references(scenes: list[Scene]) -> list[Reference]:
    return [reference(scene, f"clip-{i}") for i, scene in enumerate(scenes)]


@pytest.fixture(scope="session")
def clean(scenes: list[Scene]) -> np.ndarray:
    return np.stack([sound.render(scene) for scene in scenes])


def metrics_line(iteration: int, heldout: bool = False) -> dict:
    reward = {d: 0.4 + 0.01 * iteration + 0.02 * k for k, d in enumerate(DIMENSIONS)}
    line = {
        "iteration": iteration,
        "version": iteration + 1,
        "reward": reward,
        "total": sum(reward.values()) / 4,
        "ratio_max": 1.001,
        "clip_fraction": 0.1,
        "grad_norm": 0.5,
        "groups": {"submitted": 12, "accepted": 12, "trained": 6, "dropped": {}, "lost": {}},
        "seconds": {"rollout": 0.2, "reward": 0.1, "train": 0.05, "wait": 0.0, "iteration": 0.4},
        "staleness": 0,
        "buffer": {"items": 12, "bytes": 3_100_000},
        "rollouts_per_s": 220.0,
    }
    return {**line, "heldout": {**reward, "total": line["total"]}} if heldout else line


def score_block(level: float) -> dict:
    return {name: {"mean": level, "stderr": 0.01} for name in (*DIMENSIONS, "total")}


def summary() -> dict:
    estimate = {"mean": 0.5, "stderr": 0.02, "n": 128}
    return {
        "heldout": {
            "clips": 128,
            "before": score_block(0.5),
            "after": score_block(0.75),
            "gain": score_block(0.25),
            "guided": {"1.5": score_block(0.57), "2": score_block(0.58)},
        },
        "iterations": 20,
        "samples": 1920,
        "groups": {
            "submitted": 241,
            "accepted": 240,
            "trained": 240,
            "dropped": 1,
            "lost": 0,
            "reasons": {"dropped": {"reward_missing": 1}, "lost": {}},
            "abandoned": 3,
        },
        "nfe": {"rollout": 8280, "trained": 240},
        "seconds": {"setup": 20.0, "rl": 9.0, "rollout": 4.0, "reward": 3.0, "train": 1.0, "wait": 0.5, "total": 40.0},
        "seed": 3,
        "preset": "fast",
        "version": 20,
        "measures": {"before": {"onset_f1": estimate}, "after": {"onset_f1": {**estimate, "mean": 0.9}}},
    }


@pytest.fixture
def run_dir(tmp_path: Path, scenes: list[Scene], clean: np.ndarray) -> Path:
    """A finished run with two samples."""
    run = tmp_path / "forged"
    run.mkdir()
    (run / "config.yaml").write_text("name: forged\nalgorithm: {preset: fast}\n")
    lines = [json.dumps(metrics_line(i, heldout=i % 5 == 4)) for i in range(20)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "summary.json").write_text(json.dumps(summary()))
    for i in range(2):
        source = tmp_path / f"{i}.mp4"
        write_clip(source, picture.render(scenes[i]), FPS)
        save_sample(run, "before", record(scenes[i], f"clip-{i}"), source, clean[i + 2], RATE)
        save_sample(run, "after", record(scenes[i], f"clip-{i}"), source, clean[i], RATE)
    return run


def record(scene: Scene, name: str) -> SampleRecord:
    texts = {"semantic": scene.caption, "temporal": "Some impacts.", "aesthetic": "Clean.", "spatial": "Left."}
    return SampleRecord(
        clip_id=name,
        seconds=2.0,
        plan={**texts, "source": "analysis"},
        caption=scene.caption,
        scores={"semantic": 0.5, "temporal": 0.6, "aesthetic": 0.7, "spatial": 0.8},
        measured={"temporal": {"basis": "impacts seen in the picture", "offsets_ms": [12.0, -3.5]}},
        events=scene.events,
        positions=reference(scene, name).positions,
        position_fps=FPS,
    )
