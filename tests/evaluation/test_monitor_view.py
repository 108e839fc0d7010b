"""The monitor as a reader meets it: report, picture and live view."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation import present
from evaluation.live import LiveView
from evaluation.monitor_view import aligned, monitor_chart
from evaluation.run_data import Point, load_run
from tests.evaluation.conftest import DIMENSIONS, metrics_line, score_block, summary
from tests.evaluation.test_report import page_of, rewrite

ALARM = {
    "dimension": "semantic",
    "iteration": 15,
    "since_iteration": 5,
    "reward_change": 0.1,
    "reward_stderr": 0.01,
    "monitor_change": -0.2,
    "monitor_stderr": 0.02,
    "scenes": 128,
    "threshold": 3.0,
}
SENTENCE = (
    "Alarm, semantic: from update 5 to 15 the trained score rose by 0.100 ± 0.010, but what watches it "
    "(probability of the true class, by the judge) fell by 0.200 ± 0.020."
)


def watched(level: float, *without: str) -> dict[str, Any]:
    return {name: {"mean": level, "stderr": 0.02, "n": 128} for name in DIMENSIONS if name not in without}


@pytest.fixture
def monitored(run_dir: Path) -> Path:
    """The forged run with a watcher for every dimension but the spatial one; an alarm at update 15 only."""
    lines = []
    for k in range(20):
        line = metrics_line(k, heldout=k % 5 == 4)
        if "heldout" in line:
            line |= {"monitor": watched(0.5 + 0.01 * k, "spatial"), "alarms": [ALARM] if k == 14 else []}
        lines.append(json.dumps(line))
    (run_dir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    rewrite(run_dir, monitor=block([ALARM]))
    return run_dir


def block(alarms: list[dict[str, Any]]) -> dict[str, Any]:
    unwatched = {"spatial": "none of 128 held-out clips has a visible impact and the object's place"}
    return {
        "before": watched(0.5, "spatial"),
        "after": watched(0.7, "spatial"),
        "alarms": alarms,
        "unwatched": unwatched,
    }


def test_every_dimension_has_its_watcher_beside_it(monitored: Path) -> None:
    text, page = page_of(monitored)
    assert "Onset F1, from rises in dB" in text
    assert text.count("0.50 → 0.70") == 3
    assert "No alarm can come here: none of 128 held-out clips has a visible impact" in text
    charts = [json.loads(value) for name, value in page.attributes if name == "data-chart" and "watched by" in value]
    assert len(charts) == 3
    for chart in charts:
        assert [at for at, *_ in chart["heldout"]] == [0, 5, 10, 15, 20]
        assert chart["heldout"][0] == [0, 0.5, 0.02]
        assert [at for at, _ in chart["training"]] == [0, 5, 10, 15, 20]
    assert (monitored / "monitor.png").read_bytes()[:4] == b"\x89PNG"


def test_an_alarm_is_told_at_the_top_and_marked(monitored: Path) -> None:
    text, page = page_of(monitored)
    assert text.index(SENTENCE) < text.index("Rewards over training")
    assert text.count(SENTENCE) == 2
    assert "It no longer held at update 20" in text
    assert "Alarm for semantic" in text
    assert [value for name, value in page.attributes if name == "class"].count("alarm") == 2, "legend and one chart"
    assert load_run(monitored).parted("semantic") == (5, 15)
    assert load_run(monitored).parted("temporal") is None


def test_an_alarm_that_still_holds_says_since_when(monitored: Path) -> None:
    rewrite(monitored, monitor=block([ALARM, {**ALARM, "iteration": 20}]))
    text, _ = page_of(monitored)
    assert "from update 5 to 20" in text
    assert "First raised at update 15; it holds at the last evaluation." in text


def test_no_alarm_is_said_too(monitored: Path) -> None:
    lines = [json.loads(line) for line in (monitored / "metrics.jsonl").read_text().splitlines()]
    quiet = [json.dumps({**line, "alarms": []} if "alarms" in line else line) for line in lines]
    (monitored / "metrics.jsonl").write_text("\n".join(quiet) + "\n")
    rewrite(monitored, monitor=block([]))
    text, page = page_of(monitored)
    assert "No alarm: at no evaluation had a trained score risen while what watches it fell." in text
    assert "Spatial could raise none." in text
    assert "alarms" not in [value for name, value in page.attributes if name == "class"]


def test_an_unfinished_run_shows_what_is_there(monitored: Path) -> None:
    (monitored / "summary.json").unlink()
    early = {"before": watched(0.4, "spatial"), "unwatched": block([])["unwatched"]}
    (monitored / "before.json").write_text(json.dumps({"scores": score_block(0.4), "monitor": early}))
    text, _ = page_of(monitored)
    assert "unfinished" in text
    assert SENTENCE in text
    assert [p.version for p in load_run(monitored).watched("temporal")] == [0, 5, 10, 15, 20]
    assert load_run(monitored).watched("spatial") == []


def test_a_run_from_before_there_was_a_monitor_has_none(run_dir: Path) -> None:
    assert "monitor" not in summary()
    text, _ = page_of(run_dir)
    assert "Watched by" not in text
    assert not (run_dir / "monitor.png").exists()
    (run_dir / "summary.json").unlink()
    (run_dir / "before.json").write_text(json.dumps({"scores": score_block(0.4)}))
    assert "Watched by" not in page_of(run_dir)[0]


def test_both_lines_start_together_and_keep_their_scale() -> None:
    trained = [Point(0, 0.4), Point(10, 0.6)]
    shown = aligned(trained, [Point(0, -3.0, 0.5), Point(10, -2.0)], height=5.0)
    assert [(p.version, p.mean, p.stderr) for p in shown] == [
        (0, 0.4, pytest.approx(0.1)),
        (10, pytest.approx(0.6), None),
    ]
    later = aligned(trained, [Point(5, 0.1), Point(10, 0.3), Point(15, 0.2)], height=1.0)
    assert [p.mean for p in later] == pytest.approx([0.4, 0.6, 0.5]), "from the first evaluation that has both"
    assert [p.mean for p in aligned([], [Point(5, 0.1)], 1.0)] == [0.0]


def test_neighbouring_numbers_of_an_axis_differ(monitored: Path) -> None:
    chart = str(monitor_chart(load_run(monitored), "aesthetic"))
    for axis in ("tick", "tick right"):
        numbers = re.findall(rf'<text class="{axis}"[^>]*>([^<]*\.[^<]*)</text>', chart)
        assert len(numbers) > 3
        assert len(set(numbers)) == len(numbers)


def test_a_dimension_without_a_known_watcher_still_has_words() -> None:
    assert "what watches it (its watcher)" in present.alarm_sentence({**ALARM, "dimension": "humour"})
    assert "fell by 0.200 dB ± 0.020" in present.alarm_sentence({**ALARM, "dimension": "aesthetic"})


@pytest.mark.parametrize("terminal", [False, True])
def test_an_alarm_is_live_at_once_in_red_and_goes_when_it_is_over(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, color_system="standard" if terminal else None, width=400)
    clock = iter(range(0, 10_000, 1))
    live = LiveView(40, console=console, clock=lambda: next(clock) / 1000)
    with live:
        live.update(metrics_line(0))
        live.update({**metrics_line(14, heldout=True), "alarms": [ALARM]})
        told = out.getvalue()
        if not terminal:
            assert told.splitlines()[-1] == SENTENCE
        assert "1 ALARM" in live.line()
        live.update(metrics_line(15))
        assert "1 ALARM" in live.line(), "it stays until the next evaluation"
        live.update({**metrics_line(19, heldout=True), "alarms": []})
        assert "ALARM" not in live.line()
    if terminal:
        assert "\x1b[1;31mAlarm, semantic" in out.getvalue()
