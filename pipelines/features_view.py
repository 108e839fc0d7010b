"""What the user sees of feature extraction: a bar while it runs, and what failed."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from media.features import Failure

SHOWN = 20


class StageProgress:
    """A bar with clips per second and the number that failed; nothing where there is no terminal."""

    def __init__(self, console: Console, label: str, total: int):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=total, failed=0)
        self._failed = 0

    def __enter__(self) -> "StageProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def advance(self, failed: bool) -> None:
        """One more is through."""
        self._failed += failed
        self._progress.update(self._task, advance=1, failed=self._failed)


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = "" if task.speed is None else f"{task.speed:.3g} clips/s"
        failed = task.fields["failed"]
        return Text(f"{speed}  {failed} failed" if failed else speed)


def failure_table(failures: Sequence[Failure], root: str) -> Table:
    """One line per file and reason, with the steps that failed for it."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        grouped.setdefault((failure.uri, failure.reason), []).append(failure.what)
    table = Table(
        title=f"{len({f.uri for f in failures})} files have no features, or not all",
        caption=f"all of them: {root.rstrip('/')}/failures.parquet",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in ("file", "step", "reason"):
        table.add_column(column, overflow="fold")
    for (uri, reason), steps in sorted(grouped.items())[:SHOWN]:
        table.add_row(Text(uri), Text(", ".join(dict.fromkeys(steps))), Text(reason))
    if len(grouped) > SHOWN:
        table.add_row("...", "", f"and {len(grouped) - SHOWN} more")
    return table
