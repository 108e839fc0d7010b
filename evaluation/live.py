"""What a running training shows: a live panel on a terminal, a log line every few seconds anywhere else."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cot_service.plan import DIMENSIONS
from evaluation.names import ordered
from evaluation.present import alarm_sentence

STYLES = {"semantic": "bright_blue", "temporal": "yellow", "aesthetic": "green", "spatial": "magenta", "total": "bold"}
OTHERS = ("cyan", "bright_yellow", "bright_magenta", "bright_green")
BLOCKS = "▁▂▃▄▅▆▇█"
ALARM = "bold red"
SMOOTHING = 5


class LiveView:
    """Shows the lines of metrics.jsonl as they come, with the rewards they have; use it as a context manager.

    Every field of a line is optional: what is absent is shown as a dash. Without a terminal there is one log line every
    `interval_s` seconds. An alarm of the hacking monitor comes at once and stays until an evaluation without it.
    """

    def __init__(
        self,
        total_iterations: int,
        dashboard_url: str | None = None,
        *,
        title: str = "PrismAudio",
        interval_s: float = 5.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = max(1, total_iterations)
        self._dashboard = dashboard_url
        self._title = title
        self._interval = interval_s
        self._console = console or Console()
        self._clock = clock
        self._live: Live | None = None
        self._history: dict[str, list[float]] = {}
        self._heldout: list[Mapping[str, float | None]] = []
        self._alarms: list[str] = []
        self._last: dict[str, Any] = {}
        self._note = ""
        self._lost = 0
        self._began = (clock(), 0)
        self._logged, self._logged_at = -1, float("-inf")

    def __enter__(self) -> "LiveView":
        self._began = (self._clock(), 0)
        if self._console.is_terminal:
            self._live = Live(self._panel(), console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last state on the screen, or write it as the last log line."""
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()
            self._live = None
        elif self._last and self._logged != self._done:
            self._log()

    def note(self, text: str) -> None:
        """Show what happens besides training (setting up, evaluating, stopping)."""
        self._note = text
        if self._live is not None:
            self._live.update(self._panel())
        else:
            self._console.print(text, markup=False, highlight=False)

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Take one iteration's metrics."""
        if not self._last:
            self._began = (self._clock(), int(metrics.get("version", metrics.get("iteration", 0) + 1)) - 1)
        self._last = dict(metrics)
        for name, value in {**(metrics.get("reward") or {}), "total": metrics.get("total")}.items():
            points = self._history.setdefault(name, [])
            if value is not None and value == value:
                points.append(float(value))
        running = (metrics.get("groups") or {}).get("lost")
        self._lost = self._lost + tally(metrics.get("lost")) if running is None else tally(running)
        if metrics.get("heldout"):
            self._heldout.append(metrics["heldout"])
        if "alarms" in metrics:
            self._alarms = [alarm_sentence(alarm) for alarm in metrics["alarms"]]
            if self._live is None:
                for alarm in self._alarms:
                    self._console.print(alarm, style=ALARM, markup=False, highlight=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(self._panel(), refresh=bool(metrics.get("alarms")))
        elif self._clock() - self._logged_at >= self._interval or self._done >= self._total:
            self._log()

    @property
    def _columns(self) -> tuple[str, ...]:
        """The rewards seen so far, the usual four before any, and their total."""
        known = [*self._history, *(name for block in self._heldout for name in block)]
        return (*(ordered(known) or DIMENSIONS), "total")

    @property
    def _done(self) -> int:
        """Finished iterations."""
        return int(self._last.get("version", self._last.get("iteration", -1) + 1))

    def _seconds(self) -> tuple[float, float | None]:
        """Elapsed seconds and the estimate of those left, None before the second iteration."""
        elapsed = self._clock() - self._began[0]
        finished = self._done - self._began[1] - 1
        return elapsed, elapsed / finished * (self._total - self._done) if finished > 0 else None

    def _log(self) -> None:
        self._logged, self._logged_at = self._done, self._clock()
        self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """The present state as one line of text."""
        _, left = self._seconds()
        rewards = "  ".join(f"{name} {_number(_recent(self._history.get(name, [])))}" for name in self._columns)
        speed, staleness = self._last.get("rollouts_per_s"), self._last.get("staleness")
        parts = [f"iteration {self._done}/{self._total}", rewards, f"{_number(speed, 1)} rollouts/s"]
        parts += [f"staleness {_number(staleness, 0)}", f"left {duration(left)}"]
        if self._heldout:
            parts.append(f"held-out total {_number(self._heldout[-1].get('total'))}")
        if self._lost:
            parts.append(f"{self._lost} groups lost")
        if self._alarms:
            parts.append(f"{len(self._alarms)} ALARM{'S' * (len(self._alarms) > 1)}")
        return " | ".join(parts)

    def _panel(self) -> RenderableType:
        body = Group(self._progress(), Text(), self._rewards(), Text(), self._facts())
        title = Text(f" {self._title} ", "bold")
        return Panel(
            body,
            title=title,
            title_align="left",
            border_style="dim",
            padding=(1, 2),
            width=min(96, self._console.width),
        )

    def _progress(self) -> RenderableType:
        elapsed, left = self._seconds()
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(width=16, no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(self._total, self._done, complete_style="bright_blue", finished_style="green")
        head = Text.assemble(("iteration ", "dim"), (f"{self._done}", "bold"), (f"/{self._total}", "dim"))
        row.add_row(head, bar, Text.assemble(duration(elapsed), ("  left ", "dim"), duration(left)))
        return row

    def _rewards(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
        table.add_column("reward", no_wrap=True)
        table.add_column("now", justify="right", no_wrap=True)
        table.add_column("since start", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("held-out", no_wrap=True)
        for name, style in self._styles().items():
            values = self._history.get(name, [])
            gain = _recent(values) - _mean(values[:SMOOTHING]) if len(values) > SMOOTHING else None
            now = Text(_number(_recent(values)), "bold")
            table.add_row(Text(name, style), now, _signed(gain), Text(sparkline(values), style), self._held(name))
        return table

    def _styles(self) -> dict[str, str]:
        others = [name for name in self._columns if name not in STYLES]
        return {
            name: STYLES[name] if name in STYLES else OTHERS[others.index(name) % len(OTHERS)] for name in self._columns
        }

    def _held(self, name: str) -> Text:
        known = [h[name] for h in self._heldout if h.get(name) is not None]
        if not known:
            return Text("—", "dim")
        if len(known) == 1:
            return Text(_number(known[0]))
        return Text.assemble((f"{_number(known[0])} → ", "dim"), _number(known[-1]))

    def _facts(self) -> RenderableType:
        last, buffer = self._last, self._last.get("buffer") or {}
        seconds = last.get("seconds") or {}
        facts = [
            ("rollouts/s", _number(last.get("rollouts_per_s"), 1)),
            ("staleness", _number(last.get("staleness"), 0)),
            ("buffer", f"{_number(buffer.get('items'), 0)} groups, {size(buffer.get('bytes'))}"),
            ("s/iteration", _number(seconds.get("iteration"), 2)),
        ]
        line = Text("   ").join(Text.assemble((f"{name} ", "dim"), value) for name, value in facts)
        rows = [line]
        if self._dashboard:
            rows.append(Text.assemble(("Ray dashboard ", "dim"), (self._dashboard, f"link {self._dashboard}")))
        rows += [Text(alarm, ALARM) for alarm in self._alarms]
        if self._lost:
            rows.append(Text(f"{self._lost} groups lost so far", "yellow"))
        if self._note:
            rows.append(Text(self._note, "italic"))
        return Group(*rows)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The history as block characters, averaged down to `width`, spanning at least 0.1 so that noise stays flat."""
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [round(i * len(values) / count) for i in range(count + 1)]
    points = [_mean(values[a:b]) for a, b in pairwise(cuts)]
    low, span = min(points), max(max(points) - min(points), 0.1)
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((p - low) / span * len(BLOCKS)))] for p in points)


def duration(seconds: float | None) -> str:
    """Seconds as 1:05 or 2:03:09; a dash when unknown."""
    if seconds is None:
        return "—"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def size(count: float | None) -> str:
    """Bytes with a unit; a dash when unknown."""
    if count is None:
        return "—"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def tally(count: int | Mapping[str, int] | None) -> int:
    """A count that may come split by reason."""
    return sum(count.values()) if isinstance(count, Mapping) else int(count or 0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _recent(values: Sequence[float]) -> float:
    """Mean of the last few values; NaN for none."""
    return _mean(values[-SMOOTHING:]) if values else float("nan")


def _number(value: float | None, digits: int = 3) -> str:
    return "—" if value is None or value != value else f"{value:.{digits}f}"


def _signed(gain: float | None) -> Text:
    if gain is None:
        return Text("—", "dim")
    return Text(f"{gain:+.3f}", "green" if gain > 0.005 else "red" if gain < -0.005 else "dim")
