"""Runs whose rewards are not the usual four: others in number, name and range, gated clips, judges."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation import present
from evaluation.live import LiveView
from evaluation.report import write_report
from evaluation.run_data import RunData, load_run
from evaluation.samples import SampleRecord
from tests.evaluation.conftest import summary
from tests.evaluation.test_report import page_of

REWARDS = {"temporal": 0.4, "grid": 0.6, "loudness_range": -12.0}
CONFIG = """
name: other
rewards:
  scorers:
    temporal: {scorer: synchformer}
    grid: {scorer: /home/me/grid.py:Grid}
    loudness_range: {scorer: range.py:Range}
  judges:
    temporal: {scorer: onsets.py:Onsets}
"""
ALARM = {
    "dimension": "temporal",
    "iteration": 20,
    "since_iteration": 5,
    "reward_change": 0.1,
    "reward_stderr": 0.01,
    "monitor_change": -0.2,
    "monitor_stderr": 0.02,
    "scenes": 128,
    "threshold": 3.0,
    "judge": "Onsets",
}


def line(iteration: int, heldout: bool) -> dict[str, Any]:
    reward = {name: value + 0.01 * iteration for name, value in REWARDS.items()}
    found: dict[str, Any] = {"iteration": iteration, "version": iteration + 1, "reward": reward, "total": -3.6}
    if heldout:
        watched = {"temporal": {"mean": 0.5 - 0.01 * iteration, "stderr": 0.02, "n": 128}}
        found |= {
            "heldout": {**reward, "total": -3.6},
            "monitor": watched,
            "alarms": [ALARM] if iteration == 19 else [],
        }
    return found


def scores(shift: float) -> dict[str, Any]:
    found = {name: {"mean": value + shift, "stderr": 0.01, "n": 128} for name, value in REWARDS.items()}
    return {**found, "total": {"mean": -3.667 + shift, "stderr": 0.01, "n": 128}}


def told(path: Path, **heldout: Any) -> None:
    blocks = {"clips": 128, "before": scores(0), "after": scores(0.2), "guided": {}, **heldout}
    gain = {name: {"mean": 0.2, "stderr": 0.01, "n": 128} for name in scores(0)}
    watched = {"temporal": {"mean": 0.3, "stderr": 0.02, "n": 120, "silent": 8, "reason": "no answer within 30 s"}}
    monitor = {"before": watched, "after": watched, "alarms": [ALARM], "unwatched": {"grid": "nothing watches it"}}
    text = {**summary(), "heldout": {"gain": gain, **blocks}, "monitor": monitor}
    (path / "summary.json").write_text(json.dumps(text))


@pytest.fixture
def other(run_dir: Path) -> Path:
    """The forged run's clips with three rewards, one of them in decibels, and a judge."""
    (run_dir / "config.yaml").write_text(CONFIG)
    lines = [json.dumps(line(k, heldout=k % 5 == 4)) for k in range(20)]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told(run_dir)
    for file in (run_dir / "samples").rglob("*.json"):
        record = json.loads(file.read_text())
        record |= {
            "scores": {"temporal": 0.5, "grid": None, "loudness_range": -12.5},
            "gated": {"grid": "there is no grid in the picture"},
            "bounds": {"loudness_range": [-50.0, 0.0]},
            "measured": {"loudness_range": {"range_db": 12.5}},
        }
        file.write_text(json.dumps(record))
    return run_dir


def test_the_report_shows_these_rewards_and_no_others(other: Path) -> None:
    text, page = page_of(other)
    for part in (
        "All three dimensions rose by more than two standard errors",
        "Loudness range",
        "Scored by grid.py:Grid.",
        "Does it sound when the picture hits? Scored by synchformer.",
        "not judged: there is no grid in the picture",
        "12.5 dB",
        "The judge onsets.py:Onsets",
        "what watches it (the judge Onsets) fell by",
        "it gave no score for 8 of the clips: no answer within 30 s",
        "No alarm can come here: nothing watches it.",
    ):
        assert part in text, part
    assert "Is it a clean recording?" not in text
    assert "missing:" not in text
    assert "Left." in text, "the plan has its four parts whatever is rewarded"
    classes = {value for name, value in page.attributes if name == "class"}
    assert {"extra0", "extra1", "temporal"} <= classes
    assert "grid" not in {value for name, value in page.attributes if name == "class" and "h3" in name}
    widths = [value for name, value in page.attributes if name == "style" and value.startswith("width:")]
    assert widths == ["width:50.0%", "width:75.0%"] * 4, "12.5 of 50 dB below the upper bound"


def test_a_reward_in_decibels_has_a_scale_of_its_own(other: Path) -> None:
    run = load_run(other)
    assert run.dimensions == ("temporal", "grid", "loudness_range")
    assert run.beside("grid") == run.beside("temporal") == ["temporal", "grid"]
    assert run.beside("loudness_range") == ["loudness_range"]
    assert run.beside("total") == ["total"]
    page = write_report(other).read_text()
    slopes = page[page.index("First and last held-out scores") :]
    slopes = slopes[: slopes.index("</svg>")]
    assert "grid" in slopes
    assert "loudness" not in slopes


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_pictures_have_room_for_any_number(other: Path, count: int) -> None:
    names = [*REWARDS, *(f"more{k}" for k in range(9))][:count]
    (other / "config.yaml").write_text("")
    (other / "summary.json").unlink()
    watched = {name: {"mean": 0.2, "stderr": 0.1, "n": 9} for name in names}
    block = dict.fromkeys(names, 0.3)
    for k in (0, 1):
        text = {"version": k, "reward": block, "heldout": block, "monitor": watched, "total": 0.3}
        mode = "a" if k else "w"
        with (other / "metrics.jsonl").open(mode) as file:
            file.write(json.dumps(text) + "\n")
    page_of(other)
    assert load_run(other).dimensions == tuple(names)
    for picture in ("rewards.png", "monitor.png"):
        assert (other / picture).read_bytes()[:4] == b"\x89PNG"


def test_a_dimension_that_says_nothing_at_all_is_named(other: Path) -> None:
    blank = {"grid": {"mean": None, "stderr": None, "n": 0}}
    gated = {"grid": {"clips": 128, "reason": "there is no grid in the picture"}}
    rise, fall = ({"mean": mean, "stderr": 0.01, "n": 128} for mean in (0.2, -0.2))
    gains = {"temporal": rise, "loudness_range": fall} | blank
    told(other, before=scores(0) | blank, after=scores(0.2) | blank, gain=gains, gated=gated)
    lines = [json.loads(text) for text in (other / "metrics.jsonl").read_text().splitlines()]
    silent = [
        text | {key: text[key] | {"grid": None} for key in ("reward", "heldout") if key in text} for text in lines
    ]
    (other / "metrics.jsonl").write_text("".join(json.dumps(text) + "\n" for text in silent))
    text, _ = page_of(other)
    assert "Loudness range did not rise on scenes the model never saw. Grid could not be judged on them." in text
    assert "Grid: 128 of 128 clips not judged: there is no grid in the picture." in text
    told(
        other,
        before=scores(0) | blank,
        after=scores(0.2) | blank,
        gated=gated,
        gain={"temporal": rise, "loudness_range": rise},
    )
    assert "Both dimensions rose by more than two standard errors" in page_of(other)[0]


def test_without_any_score_the_recipe_says_which_rewards_there_are(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert load_run(tmp_path).dimensions == ("temporal", "grid", "loudness_range")
    assert RunData(tmp_path, "", [], {}, []).dimensions == ("semantic", "temporal", "aesthetic", "spatial")


def test_a_total_is_the_mean_of_what_is_judged() -> None:
    values = {"temporal": 0.4, "spatial": None, "grid": 0.8}
    assert SampleRecord("a", 2.0, scores=values, gated={"spatial": "mono"}).total == pytest.approx(0.6)
    assert SampleRecord("a", 2.0, scores=values, missing={"spatial": "died"}).total is None
    assert SampleRecord("a", 2.0, scores={"spatial": None}, gated={"spatial": "mono"}).total is None


@pytest.mark.parametrize("terminal", [False, True])
def test_the_live_view_shows_these_rewards(terminal: bool) -> None:
    out = io.StringIO()
    live = LiveView(20, console=Console(file=out, force_terminal=terminal, width=110))
    with live:
        for k in range(20):
            live.update(line(k, heldout=k % 5 == 4))
    text = out.getvalue()
    for part in ("temporal", "grid", "loudness_range", "-11.8"):
        assert part in text, part
    assert "aesthetic" not in text


def test_a_gated_reward_is_a_dash_in_the_live_view() -> None:
    live = LiveView(2, console=Console(file=io.StringIO(), width=110))
    live.update({"iteration": 0, "reward": {"temporal": 0.25, "spatial": None}, "total": 0.25})
    assert "temporal 0.250  spatial —  total 0.250" in live.line()


def test_a_judge_is_named_in_its_alarm() -> None:
    assert "(the judge Onsets) fell by 0.200 ± 0.020" in present.alarm_sentence(ALARM)
    assert "(onset F1, from rises in dB)" in present.alarm_sentence({**ALARM, "judge": None})
