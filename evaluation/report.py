"""`report.html` and `rewards.png` of a run folder, finished or not."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cot_service.plan import DIMENSIONS
from evaluation import present
from evaluation.charts import Frame, reward_chart, slope_chart, small_chart, span
from evaluation.live import tally
from evaluation.plot import plot_rewards
from evaluation.run_data import COLUMNS, Point, RunData, load_run, score_of
from evaluation.samples import Sample, SamplePair, SampleRecord
from evaluation.strips import Strips, draw_strips
from media.video import read_clip
from settings import PrismError

TEMPLATES = Path(__file__).parent / "templates"
EMBED_LIMIT = 48_000_000  # bytes of video inside the page; beyond it videos are linked


@dataclass(frozen=True)
class SampleView:
    """One side of a before/after pair as the page shows it."""

    scores: list[tuple[str, float | None, str]]
    total: float | None
    video: str | None
    strips: Strips | None
    details: list[tuple[str, list[present.Row]]]


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` and `rewards.png` into a run folder and return the page's path.

    Works with whatever is there: without a summary it reports an unfinished run.
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
    environment.filters |= {"duration": present.duration}
    try:
        plot_rewards(run, run.path / "rewards.png")
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
        "finished": bool(run.summary),
        "dimensions": [_dimension(run, name) for name in DIMENSIONS],
        "total": _dimension(run, "total"),
        "verdict": _verdict(run),
        "slopes": _slopes(run),
        "blurbs": present.BLURBS,
        "pairs": _pairs(run, notes),
        "scores": _score_rows(run),
        "measures": _measure_rows(run.summary.get("measures") or {}),
        "seconds": _seconds(run.summary.get("seconds") or {}),
        "ledger": _ledger(run),
        "health": _health(run),
        "notes": notes,
    }


def _dimension(run: RunData, name: str) -> dict[str, Any]:
    before, after = run.ends(name)
    limits = span(
        [y for c in DIMENSIONS for y in [*(v for _, v in run.training(c)), *(p.mean for p in run.heldout(c))]]
    )
    frame = Frame(460, 230, (0, max(run.iterations, 1)), limits)
    training, heldout = run.training(name), run.heldout(name)
    chart = reward_chart(f"{name} reward over updates", name, training, heldout, frame) if training or heldout else None
    gain = after.mean - before.mean if before and after else None
    moments = (_moment(run, before), _moment(run, after))
    return {"name": name, "before": before, "after": after, "gain": gain, "chart": chart, "moments": moments}


def _slopes(run: RunData) -> Markup | None:
    ends = [(name, *run.ends(name)) for name in DIMENSIONS]
    known = [(name, before, after) for name, before, after in ends if before]
    if not known:
        return None
    before = [b.mean for _, b, _ in known]
    after = [a.mean if a else None for _, _, a in known]
    frame = Frame(470, 300, (0, 1), span([*before, *(a for a in after if a is not None)], 0.02), 64, 148, 14, 34)
    names, ends = [n for n, _, _ in known], (_moment(run, known[0][1]), _moment(run, known[0][2]))
    return slope_chart("First and last held-out scores", names, before, after, ends, frame)


def _moment(run: RunData, point: Point | None) -> str:
    """When a held-out score was taken, in words."""
    if point is None:
        return ""
    if point.version == 0:
        return "before"
    return "after" if run.summary and point.version == run.iterations else f"after {point.version} updates"


def _verdict(run: RunData) -> str:
    """One honest sentence about the held-out scores."""
    ends = {name: run.ends(name) for name in DIMENSIONS}
    pairs = {name: (b, a) for name, (b, a) in ends.items() if b and a}
    if len(pairs) < len(ends):
        return "Held-out scores of all four dimensions are not there yet."
    fell = [n for n, (b, a) in pairs.items() if a.mean <= b.mean]
    if fell:
        return f"{_join(fell).capitalize()} did not rise on scenes the model never saw."
    errors = {n: ((b.stderr or 0) ** 2 + (a.stderr or 0) ** 2) ** 0.5 for n, (b, a) in pairs.items()}
    if not all(errors.values()):
        return "All four dimensions rose on scenes the model never saw; their standard errors come with the summary."
    unsure = [n for n, (b, a) in pairs.items() if a.mean - b.mean < 2 * errors[n]]
    if unsure:
        return (
            f"All four dimensions rose on scenes the model never saw, {_join(unsure)} by less than two standard errors."
        )
    return "All four dimensions rose by more than two standard errors on scenes the model never saw."


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _score_rows(run: RunData) -> list[tuple[str, list[tuple[float, float | None] | None]]]:
    keys = [k for k in ("before", "after") if k in (run.summary.get("heldout") or {})]
    keys[1:1] = [k for k in run.summary.get("heldout") or {} if k not in ("before", "after", "gain")]
    return [(k, [score_of(run.summary, k, c) for c in COLUMNS]) for k in keys]


def _measure_rows(measures: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for key, (label, rising, digits) in present.MEASURES.items():
        before, after = ((measures.get(phase) or {}).get(key) or {} for phase in ("before", "after"))
        if before or after:
            better = None
            if before.get("mean") is not None and after.get("mean") is not None:
                better = (after["mean"] > before["mean"]) == rising
            rows.append({"label": label, "digits": digits, "before": before, "after": after, "better": better})
    return rows


def _seconds(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """(part, seconds, share of the total); what the parts leave is `other`."""
    total = seconds.get("total") or 0.0
    parts = [
        (name, float(seconds[name])) for name in ("setup", "rollout", "reward", "train", "wait") if name in seconds
    ]
    rest = total - sum(value for _, value in parts)
    parts += [("other", rest)] if rest > 0 else []
    whole = sum(value for _, value in parts)
    return [(name, value, value / whole) for name, value in parts] if whole else []


def _ledger(run: RunData) -> dict[str, Any] | None:
    groups = run.summary.get("groups") or (run.metrics[-1].get("groups") if run.metrics else None)
    if not groups:
        return None
    counts = {name: tally(groups.get(name)) for name in ("submitted", "accepted", "trained", "dropped", "lost")}
    reasons = [
        (f"{k}: {r}", n) for k in ("dropped", "lost") if isinstance(groups.get(k), dict) for r, n in groups[k].items()
    ]
    balanced = counts["submitted"] == counts["trained"] + counts["dropped"] + counts["lost"]
    return {"counts": counts, "reasons": reasons, "balanced": balanced, "final": bool(run.summary)}


def _health(run: RunData) -> list[tuple[str, Markup]]:
    charts = []
    for title, keys, digits in (
        ("Clipped ratios", ("clip_fraction",), 2),
        ("Largest ratio", ("ratio_max",), 4),
        ("Gradient norm", ("grad_norm",), 2),
        ("Seconds per iteration", ("seconds", "iteration"), 2),
        ("Rollouts per second", ("rollouts_per_s",), 0),
        ("Staleness in versions", ("staleness",), 1),
    ):
        points = run.metric(*keys)
        if len(points) > 1:
            frame = Frame(300, 120, (0, max(run.iterations, 1)), _range([y for _, y in points]), left=46)
            charts.append((title, small_chart(title, points, frame, digits)))
    return charts


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits for a small chart: from zero, unless the values vary little against their size."""
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or max(0.1 * abs(high), 0.5)
    return (0.0 if 0 <= low < 2 * (high - low) or low == high == 0 else low - room, high + room)


def _pairs(run: RunData, notes: list[str]) -> list[dict[str, Any]]:
    spent = 0
    views = []
    for pair in run.pairs:
        sides = {}
        for phase, sample in (("before", pair.before), ("after", pair.after)):
            if sample is not None:
                spent += sample.video.stat().st_size if sample.video else 0
                sides[phase] = _view(run, sample, notes, embed=spent <= EMBED_LIMIT)
        views.append({"id": pair.clip_id, "record": _record(pair), "sides": sides})
    if spent > EMBED_LIMIT:
        notes.append(
            "Some videos are linked, not embedded, to keep this page small; keep it beside its samples folder."
        )
    return views


def _record(pair: SamplePair) -> SampleRecord:
    """What is known about the clip itself, from the side that knows more."""
    records = [sample.record for sample in (pair.after, pair.before) if sample]
    return max(records, key=lambda record: (bool(record.plan), bool(record.events)))


def _view(run: RunData, sample: Sample, notes: list[str], embed: bool) -> SampleView:
    record, strips, source = sample.record, None, None
    if sample.video is not None:
        source = sample.video.relative_to(run.path).as_posix()
        if embed:
            source = "data:video/mp4;base64," + base64.b64encode(sample.video.read_bytes()).decode()
        try:
            clip = read_clip(sample.video, short_side=16)
        except PrismError as error:
            notes.append(str(error))
        else:
            if clip.waveform is not None and clip.sample_rate:
                strips = draw_strips(record, clip.waveform, clip.sample_rate)
    scores = [(d, record.scores.get(d), record.missing.get(d, "not scored")) for d in DIMENSIONS]
    details = [(d, present.details(record.measured[d])) for d in DIMENSIONS if record.measured.get(d)]
    return SampleView(scores, record.total, source, strips, details)
