"""`report.html`, `rewards.png` and `monitor.png` of a run folder, finished or not."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cot_service.plan import DIMENSIONS
from evaluation import monitor_view, names, present, sections
from evaluation.plot import plot_rewards
from evaluation.plot_monitor import plot_monitor
from evaluation.run_data import RunData, load_run
from evaluation.sample_views import sample_views
from settings import PrismError

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` and `rewards.png` into a run folder and return the page's path.

    Works with whatever is there: without a summary it reports an unfinished run. A monitored one gets `monitor.png`.
    Raises PrismError when the folder is no run folder or cannot be written.
    """
    run = load_run(run_dir)
    page = run.path / "report.html"
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": present.number, "signed": present.signed, "count": present.count}
    environment.filters |= {"duration": present.duration, "titled": names.titled}
    try:
        plot_rewards(run, run.path / "rewards.png")
        if any(run.watched(name) for name in run.monitored):
            plot_monitor(run, run.path / "monitor.png")
        text = environment.get_template("report.html.j2").render(_context(run))
        temporary = page.with_suffix(".html.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(page)
    except OSError as error:
        raise PrismError(
            f"The report cannot be written to {run.path}: {error}. Free space or check permissions."
        ) from error
    return page


def _context(run: RunData) -> dict[str, Any]:
    notes = list(run.problems)
    return {
        "run": run,
        "finished": run.finished,
        "dimensions": [sections.dimension(run, name) for name in run.dimensions],
        "plan_parts": DIMENSIONS,
        "total": sections.dimension(run, "total"),
        "verdict": sections.verdict(run),
        "slopes": sections.slopes(run),
        "monitor": monitor_view.monitor(run),
        "pairs": sample_views(run, notes),
        "scores": sections.score_rows(run),
        "gated": sections.gated_notes(run),
        "measures": sections.measure_rows(run.summary.get("measures") or {}),
        "conflicts": sections.conflict_rows(run),
        "seconds": sections.seconds_rows(run.summary.get("seconds") or {}),
        "ledger": sections.ledger(run),
        "health": sections.health(run),
        "notes": notes,
    }
