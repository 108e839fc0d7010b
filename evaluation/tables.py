"""What commands show in the terminal, as Rich tables."""

from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table


def plan(result: dict[str, Any]) -> Table:
    """The four texts of a plan and what the planner saw."""
    table = Table(show_header=False, box=None, padding=(0, 2, 1, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, value in result.items():
        # The course of the positions is for programs (--json): hundreds of numbers.
        if not name.startswith("positions"):
            table.add_row(name, escape(_short(value)))
    return table


def replicas(result: dict[str, dict[str, int]]) -> Table:
    """Replicas and calls by reward dimension."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("reward", style="bold cyan", no_wrap=True)
    names = list(dict.fromkeys(name for counts in result.values() for name in counts))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for dimension, counts in result.items():
        table.add_row(dimension, *(str(counts.get(name, "")) for name in names))
    return table


def scores(result: dict[str, Any]) -> Group:
    """The rewards of one clip, what was measured, and notes."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("reward", style="bold cyan", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("what was measured")
    for name, entry in result["scores"].items():
        value = "missing" if entry["score"] is None else f"{entry['score']:.3f}"
        table.add_row(name, value, escape(_measured(entry.get("measured") or {})))
    if result.get("total") is not None:
        table.add_section()
        table.add_row("total", f"{result['total']:.3f}", "mean")
    return Group(table, *(f"[dim]{escape(note)}[/dim]" for note in result.get("notes", ())))


def _measured(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list) and len(value) > 3 and isinstance(value[0], dict):
        return f"{len(value)}, see --json"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_short(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + _measured(value) + "}"
    return str(value)


def evaluation(result: dict[str, Any]) -> Table:
    """Held-out scores, measures that are not rewarded, and totals with guidance."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=f"{result['clips']} held-out clips")
    table.add_column("measure", style="bold cyan", no_wrap=True)
    table.add_column("mean", justify="right")
    table.add_column("stderr", justify="right")
    for title, entries in (
        ("rewards", result["heldout"]),
        ("not rewarded", result.get("measures") or {}),
        ("total with guidance", {scale: scores["total"] for scale, scores in result.get("guided", {}).items()}),
    ):
        table.add_section()
        table.add_row(f"[dim]{title}[/dim]", "", "")
        for name, entry in entries.items():
            mean, stderr = (entry.get("mean"), entry.get("stderr")) if isinstance(entry, dict) else (entry, None)
            table.add_row(name.replace("_", " "), _number(mean), _number(stderr))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
