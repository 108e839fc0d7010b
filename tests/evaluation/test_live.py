import io

import pytest
from rich.console import Console

from evaluation.live import LiveView, duration, size, sparkline
from tests.evaluation.conftest import metrics_line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def view(total: int, terminal: bool, clock: Clock, url: str | None = None) -> tuple[LiveView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    return LiveView(total, url, console=console, clock=clock), out


def test_log_lines_come_every_five_seconds_and_at_the_end() -> None:
    clock = Clock()
    live, out = view(40, terminal=False, clock=clock)
    with live:
        for i in range(20):
            live.update(metrics_line(i))
            clock.now += 1.0
    lines = out.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == [f"iteration {i}/40" for i in (1, 6, 11, 16, 20)]
    assert "semantic 0.400" in lines[0]
    assert "220.0 rollouts/s" in lines[0]


def test_eta_counts_this_process_only() -> None:
    clock = Clock()
    live, _ = view(100, terminal=False, clock=clock)
    with live:
        clock.now += 30.0
        live.update(metrics_line(49))
        clock.now += 10.0
        live.update(metrics_line(54))
        assert "left 1:30" in live.line()


def test_the_terminal_shows_everything_asked_for() -> None:
    clock = Clock()
    live, out = view(40, terminal=True, clock=clock, url="http://127.0.0.1:8265")
    with live:
        live.note("Starting [Ray]")
        for i in range(12):
            live.update(metrics_line(i, heldout=i in (0, 11)))
            clock.now += 0.5
    text = out.getvalue()
    for part in (
        "temporal",
        "rollouts/s",
        "staleness",
        "3.1 MB",
        "127.0.0.1:8265",
        "Starting [Ray]",
        "left",
        "0.430 →",
    ):
        assert part in text


def test_a_line_without_fields_is_no_error() -> None:
    for terminal in (False, True):
        live, out = view(3, terminal, Clock())
        with live:
            live.update({})
            live.update({"iteration": 2, "reward": {"semantic": float("nan")}, "lost": {"timeout": 2}})
            live.update({"iteration": 2, "reward": {"semantic": None}, "total": None, "lost": {"timeout": 1}})
        assert "—" in out.getvalue()
        assert "3 groups lost" in out.getvalue()


def test_a_view_of_nothing_is_quiet() -> None:
    live, out = view(3, terminal=False, clock=Clock())
    with live:
        pass
    assert out.getvalue() == ""


def test_sparkline_by_hand() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert set(sparkline([0.5, 0.501, 0.499])) == {"▁"}
    assert len(sparkline([i / 100 for i in range(100)], width=10)) == 10


@pytest.mark.parametrize(("seconds", "text"), [(None, "—"), (5.4, "0:05"), (65, "1:05"), (7389, "2:03:09")])
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(None, "—"), (12, "12 B"), (3_200_000, "3.2 MB"), (5e12, "5000.0 GB")])
def test_size(count: float | None, text: str) -> None:
    assert size(count) == text
