"""The service's benchmark: counts and ratios from known rates, and one short run of every part on real Ray."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import rewards
from benchmarks.reward_load import Batch, bare
from benchmarks.reward_work import CpuScorer, WaitScorer
from rewards_service.temporal import TemporalScorer

MACHINE = {"cpu": "a CPU", "cores": 4, "memory_gib": None, "system": "Linux", "python": "3.11", "torch": "2",
           "threads": 1, "commit": "unknown"}  # fmt: skip


@pytest.mark.parametrize("numeric", [True, False])
def test_work_is_counted_in_cpu_time(numeric: bool) -> None:
    batch = Batch.make(groups=2, members=3, share=False)
    began = time.thread_time()
    scores = CpuScorer(0.02, numeric).score(batch.waveforms, 16000, batch.references)
    assert time.thread_time() - began >= 0.02
    assert scores.values.shape == (2, 3)
    began = time.thread_time()
    WaitScorer(0.02).score(batch.waveforms, 16000, batch.references)
    assert time.thread_time() - began < 0.02


def test_the_batch_is_one_that_scorers_take() -> None:
    batch = Batch.make(share=False)
    assert batch.clips == 8
    assert np.isfinite(TemporalScorer().score(batch.waveforms, 16000, batch.references).values).all()
    assert bare(WaitScorer(0.01), batch, 0.1) <= 100


def test_the_section_says_what_was_measured() -> None:
    kinds: dict[str, Any] = {
        "numeric": {"rates": {"bare": [50.0, 40.0], "actors": [48.0, 38.4], "serve": [45.0, 36.0]}},
        "python": {"rates": {"bare": [50.0, 50.0], "actors": [50.0, 50.0], "serve": [25.0, 25.0]}},
    }
    for kind in kinds.values():
        kind["cpu_ms"] = {"actors": [20.5, 20.7], "serve": [23.0, 24.0]}
    grown = [[100.0, 100.0], [190.0, 190.0], [360.0, 360.0]]
    both = {"actors": grown, "serve": grown}
    more = {"actors": [*grown, [400.0, 400.0]], "serve": [*grown, [400.0, 400.0]]}
    found = {
        "machine": MACHINE,
        "load": 0.5,
        "overhead": {"work_s": 0.02, "in_flight": 8, "kinds": kinds},
        "replicas": {"counts": [1, 2, 4, 8], "clips": 8, "dimensions": {"temporal": {"bare": [110.0], **more}}},
        "simulated": {"wait_s": 0.1, "counts": [1, 2, 4], "bare": [80.0], **both},
        "caches": {"clips": 1, "seconds": 4.0, "without": [30.0, 30.0], "with": [1.0, 1.0]},
    }  # fmt: skip
    text = rewards.report(found)
    assert "| numeric | 45.0 | 43.2 | 40.5 | 4.0 (4.0 to 4.0) | 10.0 (10.0 to 10.0) | 20.6 | 23.5 |" in text
    assert "| python | 50.0 | 50.0 | 25.0 | 0.0 (0.0 to 0.0) | 50.0 (50.0 to 50.0) | 20.6 | 23.5 |" in text
    # More replicas than the four cores: no efficiency is claimed.
    assert "| temporal | 110 | 100 | 190 (0.95) | 360 (0.90) | 400 | 100 | 190 (0.95) | 360 (0.90) | 400 |" in text
    assert (
        "30.0 s a sound when the picture is looked at each time, 1.00 s when its tokens are kept: 30 (30 to 30)" in text
    )
    assert "| 4 | 360 | 360 | 0.90 (0.90 to 0.90) | 0.90 (0.90 to 0.90) |" in text


def test_a_cache_is_timed_beside_the_scorer_without() -> None:
    batch = Batch.make(members=2, share=False)
    found = rewards.caches(lambda: WaitScorer(0.03), lambda: WaitScorer(0.0), batch, rounds=3)
    assert found["clips"] == 2
    assert all(seconds >= 0.015 for seconds in found["without"])
    assert len(found["with"]) == 3
    assert rewards.ratio(found["without"], found["with"]).value > 1


@pytest.mark.slow
def test_every_part_runs(ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs" / "rewards.json"
    rewards.main(
        ["--out", str(out), "--rounds", "1", "--seconds", "0.5", "--simulated", "1", "2",
         "--parts", "overhead", "simulated"]
    )  # fmt: skip
    found = json.loads(out.read_text())
    for kind in ("numeric", "python"):
        rates, spent = (found["overhead"]["kinds"][kind][name] for name in ("rates", "cpu_ms"))
        assert min(*spent["actors"], *spent["serve"]) >= 20
        assert {name: len(values) for name, values in rates.items()} == {"bare": 1, "actors": 1, "serve": 1}
        assert max(rates["bare"]) <= 1 / 0.02
    for backend in ("actors", "serve"):
        assert np.shape(found["simulated"][backend]) == (2, 1)
        # Eight sounds per tenth of a second and replica; a request on either edge of the clock.
        assert found["simulated"][backend][0][0] <= 8 * 10 * 1.5
    assert "| replicas | actors, clips/s |" in capsys.readouterr().out
