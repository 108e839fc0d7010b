"""The monitor of a run: its history on disk, resume equality, and that clips without truth are said to be unwatched."""

import json
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cot_service.analysis_planner import AnalysisPlanner
from evaluation.heldout import HeldOut
from foundation.build import load_foundation
from media.manifest import scan_folder
from pipelines.data import training_data
from pipelines.heldout import HeldOutSet
from pipelines.monitor import Monitor, measured
from pipelines.recipe import EvaluationConfig
from pipelines.segments import read_segments
from rewards_service.aesthetic import AestheticScorer
from rewards_service.build import build_scorers
from rewards_service.config import RewardConfig
from rewards_service.judge import Judge
from rewards_service.spatial import SpatialScorer
from rewards_service.temporal import TemporalScorer
from settings import PrismError
from tests.pipelines.conftest import lines, recipe

CLIPS = tuple(f"clip{k}" for k in range(32))


@dataclass
class Gamed:
    """A held-out set on which the semantic score rises with the version while its watcher turns at version 50."""

    unwatched: dict[str, str] = field(default_factory=dict)

    def score(self, model: Any) -> HeldOut:
        rng = np.random.default_rng(int(model))
        reward = 0.3 + 0.004 * model + rng.normal(0, 0.02, len(CLIPS))
        watcher = 0.6 - 0.004 * abs(model - 50) + rng.normal(0, 0.02, len(CLIPS))
        watcher[3] = np.nan
        return HeldOut(CLIPS, {"semantic": reward}, reward, watched={"semantic": watcher})


class Judged(Gamed):
    """The same with a judge that lost a clip, and another that gave no score at all."""

    def score(self, model: Any) -> HeldOut:
        scored = super().score(model)
        nothing = {"spatial": np.full(len(CLIPS), np.nan)}
        silent = {"semantic": {CLIPS[3]: "no answer within 30 s"}, "spatial": dict.fromkeys(CLIPS, "the replica died")}
        return replace(
            scored, watched=dict(scored.watched) | nothing, silent=silent, judges={"semantic": "Second", "spatial": "X"}
        )


def monitor(folder: Path) -> Any:
    """A monitor whose models are mere version numbers."""
    held: Any = Gamed()
    return Monitor(held, folder)


def run(folder: Path, versions: list[int]) -> list[dict[str, Any]]:
    """Metrics of evaluations, each by a monitor that knows only the folder, as after a restart."""
    return [pickle.loads(pickle.dumps(monitor(folder)))(version, version) for version in versions]


def test_a_metrics_line_tells_scores_watchers_and_alarms(tmp_path: Path) -> None:
    found = run(tmp_path, [0, 25, 50, 75, 100])
    assert set(found[0]) == {"heldout", "monitor", "alarms"}
    assert found[0]["heldout"]["semantic"] == found[0]["heldout"]["total"] == pytest.approx(0.3, abs=0.02)
    assert set(found[0]["monitor"]["semantic"]) == {"mean", "stderr", "n"}
    assert found[0]["monitor"]["semantic"]["n"] == len(CLIPS) - 1
    assert [[a["since_iteration"] for a in line["alarms"]] for line in found] == [[], [], [], [50], [50]]
    json.dumps(found, allow_nan=False)


def test_a_killed_and_resumed_run_alarms_like_an_undisturbed_one(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", [0, 25, 50, 75, 100])
    run(tmp_path / "parts", [0, 25, 50, 75])
    with (tmp_path / "parts" / "heldout.jsonl").open("a") as file:
        file.write('{"iteration": 99, "version": 100, "cli')  # a crash cuts the last line short
    again = run(tmp_path / "parts", [50, 75, 100])  # resumed from a checkpoint at 25
    assert again == straight[2:]
    files = [(tmp_path / name / "heldout.jsonl").read_text() for name in ("straight", "parts")]
    assert files[0] == files[1]


def test_history_keeps_every_scene_exactly(tmp_path: Path) -> None:
    run(tmp_path, [0, 25])
    scored, kept = Gamed().score(25), monitor(tmp_path).history(26)[-1]
    np.testing.assert_array_equal(kept.trained["semantic"], scored.scenes["semantic"])
    np.testing.assert_array_equal(kept.watched["semantic"], scored.watched["semantic"])
    assert kept.clips == CLIPS
    assert [e.version for e in monitor(tmp_path).history(25)] == [0]


def test_the_summary_lists_every_alarm_and_leaves_the_history_alone(tmp_path: Path) -> None:
    lines_before = run(tmp_path, [0, 25, 50, 75, 100])
    text = (tmp_path / "heldout.jsonl").read_text()
    after = Gamed().score(110)
    start = {"monitor": {"before": lines_before[0]["monitor"]}}
    found = monitor(tmp_path).summary(start, after, 110)
    assert [a["iteration"] for a in found["alarms"]] == [75, 100, 110]
    assert found["alarms"][:2] == [a for line in lines_before for a in line["alarms"]]
    assert found["before"] == lines_before[0]["monitor"]
    assert found["after"] == measured(after)
    assert (tmp_path / "heldout.jsonl").read_text() == text
    assert monitor(tmp_path / "older").summary({}, after, 110)["alarms"] == []


def test_changed_clips_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run(tmp_path, [0])
    text = (tmp_path / "heldout.jsonl").read_text()
    scored = Gamed().score(25)
    other = HeldOut(("new", *CLIPS[1:]), scored.scenes, scored.total, watched=scored.watched)
    with pytest.raises(PrismError, match="held-out clips are not those"):
        monitor(tmp_path).record(other, 25)
    assert (tmp_path / "heldout.jsonl").read_text() == text
    assert len(lines(tmp_path / "heldout.jsonl")) == 1


def test_a_judge_watches_and_alarms_in_its_own_name(tmp_path: Path) -> None:
    settings = recipe(tmp_path, "scenes.heldout=9", "evaluation.steps=2")
    foundation = load_foundation(settings.model)
    data = training_data(settings, foundation, Console(quiet=True))
    scorers = {"temporal": TemporalScorer(), "spatial": SpatialScorer(), "level": AestheticScorer()}
    judges = {"temporal": TemporalScorer(tolerance_s=0.1)}
    held = HeldOutSet(foundation, data.heldout, scorers, EvaluationConfig(steps=2, batch=4), judges=judges)
    assert held.unwatched == {"level": "nothing built in watches it; a scorer named in rewards.judges would"}
    assert held.notes == [
        "No alarm can come for level: nothing built in watches it; a scorer named in rewards.judges would."
    ]
    scored = pickle.loads(pickle.dumps(held)).score()
    assert isinstance(scored.waveforms, np.ndarray)
    rate, sounds = foundation.codec.sample_rate, scored.waveforms[:, None]
    expected = judges["temporal"].score(sounds, rate, held.references).values[:, 0]
    np.testing.assert_allclose(scored.watched["temporal"], expected, rtol=1e-5)
    assert set(scored.watched) == {"temporal", "spatial"}
    assert measured(scored)["temporal"]["mean"] == pytest.approx(expected.mean(), rel=1e-5)
    assert held.score(guidance=2.0).watched == {}, "judges are asked only about what is monitored"


def test_alarms_name_the_judge_and_what_it_left_out(tmp_path: Path) -> None:
    held: Any = Judged()
    watching: Any = Monitor(held, tmp_path)
    found = [watching(version, version) for version in (0, 50, 100)]
    assert [a["judge"] for a in found[-1]["alarms"]] == ["Second"]
    assert found[-1]["monitor"]["semantic"] | {"mean": 0, "stderr": 0} == {
        "mean": 0, "stderr": 0, "n": len(CLIPS) - 1, "silent": 1, "reason": "no answer within 30 s",
    }  # fmt: skip
    assert found[-1]["monitor"]["spatial"]["mean"] is None
    assert found[-1]["monitor"]["spatial"]["silent"] == len(CLIPS)
    json.dumps(found, allow_nan=False)


def test_own_videos_are_watched_where_they_can_be(own_videos: Path, tmp_path: Path) -> None:
    """Without labels nothing watches the class; picture and sound still watch the rest, on too few clips to alarm."""
    settings = recipe(tmp_path)
    foundation = load_foundation(settings.model)
    records, _ = scan_folder(own_videos)
    found, _ = read_segments(records, AnalysisPlanner(), foundation.seconds, foundation.codec.sample_rate)
    judge, config = Judge.load(settings.judge), EvaluationConfig(steps=2)
    held = HeldOutSet(foundation, found, build_scorers(RewardConfig()), config, judge)
    scored = held.score()
    assert np.isnan(scored.watched["semantic"]).all()
    assert np.isfinite(scored.watched["aesthetic"]).all()
    assert set(held.unwatched) == {"semantic", "temporal", "aesthetic", "spatial"}
    assert held.unwatched["semantic"] == f"none of {len(held)} held-out clips has a label that the judge knows"
    assert held.notes[0].startswith("No alarm can come for semantic: none of")
    assert "semantic" not in measured(scored)
    assert held.score(guidance=2.0).watched == {}
