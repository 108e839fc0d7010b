"""Feature extraction on Ray: what fails is a reason, what dies is done again, what is done stays done."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from media.features import FeatureStore
from media.stretches import Stretch
from pipelines.extraction import ExtractionError, PatienceConfig, PlacementConfig, run_stage
from tests.pipelines.extractors import Counting, Deadly, Hanging, Slow, Unloadable, Wrong

PLACEMENT = PlacementConfig(num_cpus=0.5, batch=4)
PATIENCE = PatienceConfig(start_s=60, stretch_s=60, retries=2)


def stretches(count: int) -> list[Stretch]:
    return [Stretch(f"id{k}", f"c{k}", f"/v/{k}.mp4", float(k), 9.0, "00") for k in range(count)]


def reasons(root: Path, extractor: Counting, count: int, patience: PatienceConfig = PATIENCE) -> dict[str, str]:
    """Status per id, each exactly once."""
    found = list(run_stage(str(root), extractor, stretches(count), PLACEMENT, patience))
    assert sorted(status.key for status in found) == sorted(f"id{k}" for k in range(count))
    return {status.key: status.reason for status in found}


@pytest.mark.usefixtures("ray_session")
def test_a_bad_clip_costs_only_itself(tmp_path: Path) -> None:
    extractor = Counting(tmp_path / "marks", bad=("c3",))
    found = reasons(tmp_path, extractor, 10)
    assert found.pop("id3") == "expected a video"
    assert not any(found.values())
    store = FeatureStore(tmp_path)
    assert store.ids("counting-1") == sorted(found)
    assert store.read("counting-1", ["id7"])["id7"]["x"].tolist() == [7, 7, 7]
    assert len(list(tmp_path.rglob("*.parquet"))) == 3
    assert sorted(extractor.computed()) == sorted(f"c{k}" for k in range(10))


@pytest.mark.usefixtures("ray_session")
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    extractor = Slow(tmp_path / "marks")
    pids: list[int] = []

    def kill() -> None:
        while len(extractor.computed()) < 6:
            time.sleep(0.02)
        pids.append(int(extractor.marks.with_suffix(".pid").read_text()))
        os.kill(pids[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    found = reasons(tmp_path, extractor, 20)
    thread.join(timeout=60)
    assert pids
    assert int(extractor.marks.with_suffix(".pid").read_text()) != pids[0]
    assert not any(found.values())
    assert len(FeatureStore(tmp_path).ids("counting-1")) == 20
    # What the killed process had written was not computed again.
    assert 20 <= len(extractor.computed()) <= 24


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("kind", "stretch_s"), [(Deadly, 60.0), (Hanging, 1.0)])
def test_a_clip_that_kills_or_hangs_its_worker_takes_no_other_along(
    kind: type[Counting], stretch_s: float, tmp_path: Path
) -> None:
    extractor = kind(tmp_path / "marks", bad=("c1",))
    found = reasons(tmp_path, extractor, 6, PatienceConfig(start_s=60, stretch_s=stretch_s, retries=0))
    assert "its worker died, or took longer than" in found.pop("id1")
    assert not any(found.values())
    assert FeatureStore(tmp_path).ids("counting-1") == sorted(found)


@pytest.mark.usefixtures("ray_session")
def test_wrong_results_are_refused(tmp_path: Path) -> None:
    found = reasons(tmp_path, Wrong(tmp_path / "marks", bad=("c0",)), 2)
    assert "gave nothing, not x" in found["id0"]
    assert "NaN" in found["id1"]
    assert FeatureStore(tmp_path).ids("counting-1") == []


@pytest.mark.usefixtures("ray_session")
def test_what_would_fail_for_every_clip_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ExtractionError, match="no such weights"):
        reasons(tmp_path, Unloadable(tmp_path / "marks"), 3)
    greedy = PlacementConfig(num_cpus=500)
    with pytest.raises(ExtractionError, match="does not have enough resources"):
        list(run_stage(str(tmp_path), Counting(tmp_path / "m"), stretches(1), greedy, PatienceConfig(start_s=2)))
