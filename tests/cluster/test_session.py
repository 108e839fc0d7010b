"""A guarded Ray in a process of its own, with the main command submitted to it as a job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import RayConfig
from cluster.environment import ROOT
from cluster.session import SessionError, ray_session

TINY = [
    "learner.iterations=2",
    "learner.eval_every=0",
    "scenes.prompts=12",
    "scenes.heldout=4",
    "evaluation.samples=1",
    "evaluation.guidance=[]",
    "algorithm.prompts=4",
]


def test_the_recipe_runs_as_a_submitted_job_on_a_guarded_head(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = ["train", "recipes/laptop.yaml", "name=job", *TINY]
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.guarded_head", str(tmp_path), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["without_token"] == 401
    assert "reserve 5 CPUs, but Ray has 4" in found["too_many"]
    assert found["shared"] == [True, False]
    assert found["status"] == "SUCCEEDED", found["logs"][-3000:]
    assert found["folder_left"] is False
    run = tmp_path / "job"
    assert (tmp_path / "latest").resolve() == run
    summary = json.loads((run / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["groups"]["trained"] == summary["groups"]["submitted"] == 8
    for name in ("config.yaml", "metrics.jsonl", "report.html", "rewards.png", "checkpoints", "samples/after"):
        assert (run / name).exists(), name


def test_an_address_where_nobody_listens_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("cluster.session.prepare", lambda config: None)
    with (
        pytest.raises(SessionError, match=r"No Ray could be joined at '127.0.0.1:1'.*ray start --head"),
        ray_session(RayConfig(address="127.0.0.1:1")),
    ):
        pass
