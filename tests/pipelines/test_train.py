"""The main job in small, on real Ray: what it leaves behind, resume equality, killed actors, a clean stop."""

import json
import os
import signal
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from foundation.checkpoint import read_tensors
from pipelines.run_folder import RunFolder
from pipelines.train import train
from tests.pipelines.conftest import LAPTOP, lines, recipe, small


def run(runs: Path, *overrides: str, resume: bool = False) -> RunFolder:
    return train(LAPTOP, small(runs, *overrides), resume=resume, console=Console(file=StringIO()))


def summary(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.summary.read_text())


def weights(folder: RunFolder) -> dict[str, Any]:
    return {name: t.numpy().tobytes() for name, t in read_tensors(folder.model)[0].items()}


def rewards(folder: RunFolder) -> list[Any]:
    return [json.loads(line)["reward"] for line in lines(folder.path / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(ray_session: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An undisturbed run."""
    return run(tmp_path_factory.mktemp("runs"), "name=whole")


def balance(groups: dict[str, Any]) -> bool:
    return groups["submitted"] == groups["trained"] + groups["dropped"] + groups["lost"]


def test_a_run_leaves_everything_it_promises(whole: RunFolder) -> None:
    found = summary(whole)
    assert (found["iterations"], found["version"], found["seed"], found["preset"]) == (4, 4, 0, "fast")
    assert found["samples"] == 4 * 4 * 4
    assert found["groups"]["submitted"] == 16
    assert balance(found["groups"])
    for when in ("before", "after"):
        for name in ("semantic", "temporal", "aesthetic", "spatial", "total"):
            assert set(found["heldout"][when][name]) >= {"mean", "stderr"}
    assert set(found["seconds"]) == {"setup", "rl", "rollout", "reward", "train", "wait", "total"}
    assert found["nfe"]["trained"] == 4 * 4 * 2  # one evaluation per group and epoch
    assert found["measures"]["after"]["onset_f1"]["mean"] is not None
    metrics = [json.loads(line) for line in lines(whole.path / "metrics.jsonl")]
    assert [m["iteration"] for m in metrics] == [0, 1, 2, 3]
    assert [("heldout" in m) for m in metrics] == [False, True, False, True]
    for name in ("config.yaml", "report.html", "rewards.png", "model.safetensors"):
        assert (whole.path / name).stat().st_size > 0
    assert len(list(whole.path.glob("samples/before/*.mp4"))) == len(list(whole.path.glob("samples/after/*.mp4"))) == 1


def test_nfe_is_counted_exactly(whole: RunFolder) -> None:
    metrics = [json.loads(line) for line in lines(whole.path / "metrics.jsonl")]
    for entry in metrics:
        start, size = entry["window"]["start"], entry["window"]["size"]
        per_group = start + 1 + 4 * (size - 1) + 4 * min(3, 16 - start - size)
        assert entry["nfe"]["rollout"] == entry["nfe"]["sampled"] == 4 * per_group


def test_a_resumed_run_equals_an_undisturbed_one(whole: RunFolder, tmp_path: Path) -> None:
    run(tmp_path, "name=split", "learner.iterations=3")
    resumed = run(tmp_path, "name=split", "learner.iterations=4", resume=True)
    assert weights(resumed) == weights(whole)
    assert rewards(resumed) == rewards(whole)
    assert summary(resumed)["heldout"]["after"] == summary(whole)["heldout"]["after"]
    assert summary(resumed)["samples"] == summary(whole)["samples"]
    assert balance(summary(resumed)["groups"])


def test_another_seed_is_another_run(whole: RunFolder, tmp_path: Path) -> None:
    assert rewards(run(tmp_path, "seed=1", "learner.iterations=1"))[0] != rewards(whole)[0]


def _kill_during(iteration: int, path: Path, find: Any) -> threading.Thread:
    """SIGKILL the process `find()` returns once the run has finished `iteration` iterations."""

    def work() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if path.is_file() and len(lines(path)) >= iteration:
                os.kill(find(), signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("victim", ["rollout", "reward"])
def test_a_killed_actor_costs_nothing_but_time(ray_session: str, whole: RunFolder, tmp_path: Path, victim: str) -> None:
    namespace = f"{recipe(tmp_path).ray.namespace}-hit"

    def pid() -> int:
        from rewards_service.service.deploy import replica_name

        if victim == "rollout":
            return int(ray.get(ray.get_actor("hit-rollout-0", namespace).ready.remote(), timeout=30))  # type: ignore[arg-type]
        return int(ray.get(ray.get_actor(replica_name("temporal", 0), namespace).pid.remote(), timeout=30))  # type: ignore[arg-type]

    thread = _kill_during(1, tmp_path / "hit" / "metrics.jsonl", pid)
    folder = run(tmp_path, "name=hit")
    thread.join(timeout=1)
    assert not thread.is_alive()
    assert weights(folder) == weights(whole)
    assert summary(folder)["groups"]["trained"] == 16
    assert summary(folder)["groups"]["lost"] == summary(folder)["groups"]["dropped"] == 0


def test_ctrl_c_ends_with_a_checkpoint_that_continues(whole: RunFolder, tmp_path: Path) -> None:
    thread = _stop_after(2, tmp_path / "cut" / "metrics.jsonl")
    folder = run(tmp_path, "name=cut")
    thread.join(timeout=1)
    stopped = summary(folder)
    assert stopped["stopped"]
    assert 2 <= stopped["version"] < 4
    assert balance(stopped["groups"])
    resumed = run(tmp_path, "name=cut", resume=True)
    assert weights(resumed) == weights(whole)


def _stop_after(iteration: int, path: Path) -> threading.Thread:
    def work() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if path.is_file() and len(lines(path)) >= iteration:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_own_videos_train(ray_session: str, own_videos: Path, tmp_path: Path) -> None:
    told = StringIO()
    folder = train(
        LAPTOP, small(tmp_path, f"data={own_videos}", "learner.iterations=1"), console=Console(file=told, width=200)
    )
    assert "broken.mp4" in told.getvalue()
    assert "judged by what the picture shows" in told.getvalue()
    assert balance(summary(folder)["groups"])


def test_workers_of_ray_train_run_the_same_loop(ray_session: str, tmp_path: Path) -> None:
    folder = run(tmp_path, "learner.num_workers=2", "learner.iterations=2", "name=two")
    assert summary(folder)["iterations"] == 2
    assert balance(summary(folder)["groups"])
