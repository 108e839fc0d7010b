"""`prism rewards` from another terminal: a run that is going is found, asked and scaled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.launch import ActorNames
from pipelines import rewards
from pipelines.recipe import ROOT
from pipelines.rewards import RunNotFoundError, prepare, scale, status
from pipelines.run_folder import RunFolder
from pipelines.whereabouts import Whereabouts, announced
from rewards_service.errors import RewardError
from settings import PrismError
from tests.pipelines.conftest import LAPTOP, lines, small

DIMENSIONS = {"semantic", "temporal", "aesthetic", "spatial"}


class Coordinator:
    """Answers as a run's coordinator does."""

    async def rewards_status(self) -> dict[str, dict[str, int]]:
        return {"temporal": {"running": 1, "wanted": 1}}

    async def scale_rewards(self, dimension: str, replicas: int, max_replicas: int | None = None) -> dict[str, int]:
        if dimension != "temporal":
            raise RewardError(f"There is no {dimension} reward to scale; there are temporal.")
        return {"running": replicas, "wanted": max_replicas or replicas}


@pytest.fixture
def going(ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Two runs of the suite's Ray, first and second; the working directory is an empty one."""
    monkeypatch.chdir(tmp_path)
    started = [_start(run, f"{tmp_path.name}-{run}") for run in ("first", "second")]
    yield started
    for handle in started:
        ray.kill(handle)


def _start(run: str, namespace: str) -> Any:
    name = ActorNames(run, namespace).coordinator
    remote: Any = ray.remote
    handle = remote(Coordinator).options(name=name, namespace=namespace, num_cpus=0).remote()
    ray.get(handle.rewards_status.remote(), timeout=60)
    return handle


def test_a_run_is_found_by_name_among_several(going: list[Any]) -> None:
    assert status("first") == {"temporal": {"running": 1, "wanted": 1}}
    assert scale("temporal", "3", "second") == {"running": 3, "wanted": 3}
    assert scale("temporal", "1:4", "second", "auto") == {"running": 1, "wanted": 4}
    with pytest.raises(RunNotFoundError, match=r"Several runs are going .*: first, second\. Name one"):
        status()
    with pytest.raises(RunNotFoundError, match=r"'third' is not going .*: first, second"):
        status("third")
    ray.kill(going[1])
    for _ in range(100):
        if not any(actor["name"] == "second-coordinator" for actor in _named()):
            break
        time.sleep(0.1)
    assert status() == {"temporal": {"running": 1, "wanted": 1}}


def _named() -> list[dict[str, Any]]:
    return ray.util.list_named_actors(all_namespaces=True)  # type: ignore[return-value]


def test_a_folder_says_where_its_run_is_while_it_is_going(going: list[Any], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "second")
    folder.path.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("second")
    names = ActorNames("second", f"{tmp_path.name}-second")
    with announced(folder, names.namespace, names.coordinator):
        found = Whereabouts.read(folder)
        assert found is not None
        assert (found.namespace, found.coordinator) == (names.namespace, names.coordinator)
        assert found.address == ray.get_runtime_context().gcs_address
        assert scale("temporal", "2") == {"running": 2, "wanted": 2}  # the newest run
        assert scale("temporal", "2", str(folder.path)) == {"running": 2, "wanted": 2}
        ray.kill(going[1])
        with pytest.raises(RunNotFoundError, match=r"second is not going any more|ended while it was asked"):
            status()
    assert not folder.ray.exists()


def test_what_is_wrong_is_said(going: list[Any]) -> None:
    with pytest.raises(RewardError, match="no smell reward to scale; there are temporal"):
        scale("smell", "2", "first")
    for nonsense in ("many", "-1", "1:", "2:3:4", ""):
        with pytest.raises(PrismError, match="no number of replicas; expected one as 3, or a range as 1:4"):
            scale("temporal", nonsense, "first")


def test_a_coordinator_that_does_not_answer_is_given_up(going: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "STATUS_S", 0.5)
    os.kill(pid := _pid(going[0]), signal.SIGSTOP)
    try:
        with pytest.raises(RunNotFoundError, match="has not answered for"):
            status("first")
    finally:
        os.kill(pid, signal.SIGCONT)


def _pid(handle: Any) -> int:
    ask: Any = handle.__ray_call__
    return ray.get(ask.remote(lambda self: os.getpid()), timeout=30)


def test_a_broken_note_is_no_note(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert Whereabouts.read(folder) is None
    for text in ("", "{", "[]", '{"address": "here"}', '{"other": 1}'):
        folder.ray.write_text(text)
        assert Whereabouts.read(folder) is None


def test_no_environments_for_scorers_of_the_main_one() -> None:
    assert prepare(LAPTOP) == []


def _prism(cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "prism.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=150)


def _until(condition: Any, limit_s: float, why: str) -> Any:
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, why
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["actors", "serve"])
def test_one_dimension_scales_there_and_back_while_a_run_trains(tmp_path: Path, backend: str) -> None:
    folder, log = RunFolder(tmp_path / "runs" / "long"), (tmp_path / "log").open("w+")
    overrides = [
        "name=long",
        "learner.iterations=5000",
        "learner.eval_every=5000",
        "learner.checkpoint_every=5000",
        "ray.dashboard=false",
        "ray.num_cpus=8",
        f"rewards.backend={backend}",
    ]
    command = [sys.executable, str(ROOT / "prism.py"), "train", str(LAPTOP), *small(tmp_path / "runs", *overrides)]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)

    def counts() -> list[int]:
        metrics = folder.path / "metrics.jsonl"
        return [json.loads(line)["replicas"]["temporal"] for line in lines(metrics)] if metrics.is_file() else []

    def said() -> str:
        return Path(log.name).read_text()[-2000:]

    try:
        _until(lambda: run.poll() is not None or folder.ray.is_file(), 150, "the run did not start")
        _until(lambda: run.poll() is not None or 1 in counts(), 90, "nothing was trained")
        assert run.poll() is None, said()
        first = json.loads(_prism(tmp_path, "rewards", "status", "--json").stdout)
        assert set(first) == DIMENSIONS
        assert first["temporal"]["running"] == 1
        for replicas in (3, 1):
            done = _prism(tmp_path, "rewards", "scale", "temporal", str(replicas))
            assert done.returncode == 0, done.stdout + done.stderr
            _until(lambda n=replicas: counts()[-1] == n, 60, "the metrics do not show it")
        last = json.loads(_prism(tmp_path, "rewards", "status", "--json").stdout)
        assert {name: last[name]["missing"] for name in DIMENSIONS} == dict.fromkeys(DIMENSIONS, 0)
        assert last["semantic"]["running"] == 1
        unknown = _prism(tmp_path, "rewards", "scale", "smell", "2")
        assert unknown.returncode != 0
        assert "There is no smell reward" in unknown.stdout + unknown.stderr
        # As Kubernetes ends it, and as a person does.
        run.send_signal(signal.SIGTERM if backend == "actors" else signal.SIGINT)
        run.wait(timeout=120)
    finally:
        run.kill()
        run.wait()
        log.close()
    assert not folder.ray.exists()
    changes = [n for n, _ in groupby(counts())]
    # Actors come one after another, so two may be seen on the way up.
    assert [n for n in changes if n != 2] == [1, 3, 1]
    assert folder.summary.is_file(), said()
    groups = json.loads(folder.summary.read_text())["groups"]
    assert groups["submitted"] == groups["trained"] + groups["dropped"] + groups["lost"]
    assert groups["lost"] == 0
    assert not any(reason.startswith("missing") for reason in groups["reasons"]["dropped"])
    metrics = [json.loads(line) for line in lines(folder.path / "metrics.jsonl")]
    assert all((entry["masked"], entry["dropped"], entry["lost"]) == (0, {}, {}) for entry in metrics)
