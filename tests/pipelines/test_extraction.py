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
from tests.pipelines.extractors import Counting, Slow, Spoilt, Trouble, Unloadable

PLACEMENT = PlacementConfig(num_cpus=0.5, batch=4)
PATIENCE = PatienceConfig(start_s=60, stretch_s=60, retries=2)


def stretches(count: int) -> list[Stretch]:
    return [Stretch(f"id{k}", f"c{k}", f"/v/{k}.mp4", float(k), 9.0, "00") for k in range(count)]


def outcome(root: Path, extractor: Counting, count: int) -> dict[str, str]:
    """Status per id, each exactly once."""
    found = list(run_stage(str(root), extractor, stretches(count), PLACEMENT, PATIENCE))
    assert sorted(status.key for status in found) == sorted(f"id{k}" for k in range(count))
    return {status.key: status.reason for status in found}


@pytest.mark.usefixtures("ray_session")
def test_a_bad_clip_costs_only_itself(tmp_path: Path) -> None:
    extractor = Counting(tmp_path / "marks", bad=("c3",))
    found = outcome(tmp_path, extractor, 10)
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
    found = outcome(tmp_path, extractor, 20)
    thread.join(timeout=60)
    assert pids
    assert int(extractor.marks.with_suffix(".pid").read_text()) != pids[0]
    assert not any(found.values())
    assert len(FeatureStore(tmp_path).ids("counting-1")) == 20
    # What the killed process had written was not computed again.
    assert 20 <= len(extractor.computed()) <= 24


@pytest.mark.usefixtures("ray_session")
def test_a_clip_that_kills_or_hangs_its_worker_takes_no_other_along(tmp_path: Path) -> None:
    """Nor does one that raises, or gives what cannot be stored; and each says why."""
    names = ["a", "kills", "b", "raises", "nan", "c", "hangs", "nothing", "d"]
    wanted = [Stretch(name, name, f"/v/{name}.mp4", 0.0, 9.0, "00") for name in names]
    patience = PatienceConfig(start_s=60, stretch_s=1, retries=0)
    found = list(run_stage(str(tmp_path), Trouble(tmp_path / "marks"), wanted, PLACEMENT, patience))
    reasons = {status.key: status.reason for status in found}
    assert len(found) == len(reasons) == len(names)
    for name in ("kills", "hangs"):
        assert "its worker died, or took longer than 1 s" in reasons.pop(name)
    assert reasons.pop("raises") == "ZeroDivisionError: no frames"
    assert "NaN" in reasons.pop("nan")
    assert "gave nothing, not x" in reasons.pop("nothing")
    assert not any(reasons.values())
    assert FeatureStore(tmp_path).ids("counting-1") == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("ray_session")
def test_what_would_fail_for_every_clip_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ExtractionError, match="no such weights"):
        list(run_stage(str(tmp_path), Unloadable(tmp_path / "marks"), stretches(3), PLACEMENT, PATIENCE))
    with pytest.raises(ExtractionError, match=r"c[0-2]: the weights do not fit"):
        list(run_stage(str(tmp_path), Spoilt(tmp_path / "marks"), stretches(3), PLACEMENT, PATIENCE))
    greedy = PlacementConfig(num_cpus=500)
    with pytest.raises(ExtractionError, match="does not have enough resources"):
        list(run_stage(str(tmp_path), Counting(tmp_path / "m"), stretches(1), greedy, PatienceConfig(start_s=2)))
