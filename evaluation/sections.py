"""What each section of the report says, out of a run's data."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from evaluation import present
from evaluation.charts import Frame, reward_chart, slope_chart, small_chart, span
from evaluation.live import tally
from evaluation.names import in_words, joined, titled
from evaluation.run_data import Point, RunData, score_of


def dimension(run: RunData, name: str) -> dict[str, Any]:
    """A dimension or the total: first and last held-out score, gain, moments in words, chart."""
    before, after = run.ends(name)
    limits = span([y for column in run.beside(name) for y in run.values(column)])
    frame = Frame(460, 230, (0, max(run.iterations, 1)), limits)
    training, heldout = run.training(name), run.heldout(name)
    chart = None
    if training or heldout:
        chart = reward_chart(f"{name} reward over updates", run.tone(name), training, heldout, frame)
    return {
        "name": name,
        "tone": run.tone(name),
        "blurb": present.blurb(name, run.scorers.get(name, "")),
        "before": before,
        "after": after,
        "gain": after.mean - before.mean if before and after else None,
        "chart": chart,
        "moments": (_moment(run, before), _moment(run, after)),
    }


def slopes(run: RunData) -> Markup | None:
    """First and last held-out scores on the scale that most share; None before the first evaluation."""
    shared = max((run.beside(name) for name in run.dimensions), key=len)
    ends = [(name, *run.ends(name)) for name in shared]
    known = [(name, before, after) for name, before, after in ends if before]
    if not known:
        return None
    before = [b.mean for _, b, _ in known]
    after = [a.mean if a else None for _, _, a in known]
    frame = Frame(470, 300, (0, 1), span([*before, *(a for a in after if a is not None)], 0.02), 64, 148, 14, 34)
    names, ends = [n for n, _, _ in known], (_moment(run, known[0][1]), _moment(run, known[0][2]))
    tones = [run.tone(name) for name in names]
    return slope_chart("First and last held-out scores", names, before, after, ends, frame, tones)


def _moment(run: RunData, point: Point | None) -> str:
    """When a held-out score was taken, in words."""
    if point is None:
        return ""
    if point.version == 0:
        return "before"
    return "after" if run.finished and point.version == run.iterations else f"after {point.version} updates"


def _gain(run: RunData, name: str) -> tuple[float, float | None] | None:
    """Held-out gain and its standard error: paired over scenes where the summary has it, else of two means."""
    paired = score_of((run.summary.get("heldout") or {}).get("gain"), name)
    before, after = run.ends(name)
    if paired or not (before and after):
        return paired
    both = before.stderr is not None and after.stderr is not None
    return after.mean - before.mean, ((before.stderr or 0) ** 2 + (after.stderr or 0) ** 2) ** 0.5 if both else None


def verdict(run: RunData) -> str:
    """One honest sentence about the held-out scores."""
    gains = {name: gain for name in run.dimensions if (gain := _gain(run, name))}
    silent = [name for name in run.dimensions if name not in gains and name in run.gated]
    judged, every = len(run.dimensions) - len(silent), in_words(list(gains))
    if not gains or len(gains) < judged:
        return f"Held-out scores of {in_words(run.dimensions)} are not there yet."
    rest = f" {titled(joined(silent))} could not be judged on them." if silent else ""
    fell = [name for name, (gain, _) in gains.items() if gain <= 0]
    if fell:
        return f"{titled(joined(fell))} did not rise on scenes the model never saw.{rest}"
    unsure = [name for name, (gain, stderr) in gains.items() if stderr is not None and gain < 2 * stderr]
    rose = f"{every[0].upper()}{every[1:]} rose"
    if unsure:
        return f"{rose} on scenes the model never saw, {joined(unsure)} by less than two standard errors.{rest}"
    if any(stderr is None for _, stderr in gains.values()):
        return f"{rose} on scenes the model never saw; the standard errors come with the summary.{rest}"
    return f"{rose} by more than two standard errors on scenes the model never saw.{rest}"


def score_rows(run: RunData) -> list[dict[str, Any]]:
    """Rows of the score table: before, every guidance scale tried before, after, gain."""
    heldout = run.summary.get("heldout") or {}
    guided = heldout.get("guided") or {}
    blocks = {"Before": heldout.get("before")}
    if "total" in guided:
        blocks["Before, guided"] = guided
    else:
        blocks |= {f"Before, guidance {scale}": block for scale, block in guided.items()}
    blocks["After"] = heldout.get("after")
    rows = [{"label": k, "cells": [score_of(v, c) for c in run.columns], "gain": False} for k, v in blocks.items() if v]
    if heldout.get("after"):
        rows.append({"label": "Gain", "cells": [_gain(run, c) for c in run.columns], "gain": True})
    return rows


def gated_notes(run: RunData) -> list[str]:
    """What the held-out scores leave out, in sentences."""
    total = (run.summary.get("heldout") or {}).get("clips", "the")
    return [
        f"{titled(name)}: {entry['clips']} of {total} clips not judged: {entry['reason']}."
        for name, entry in run.gated.items()
    ]


def measure_rows(measures: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of measures that were not rewarded."""
    rows = []
    for key, (label, rising, digits) in present.MEASURES.items():
        before, after = ((measures.get(phase) or {}).get(key) or {} for phase in ("before", "after"))
        if before or after:
            better = None
            if before.get("mean") is not None and after.get("mean") is not None:
                better = (after["mean"] > before["mean"]) == rising
            rows.append({"label": label, "digits": digits, "before": before, "after": after, "better": better})
    return rows


def conflict_rows(run: RunData) -> list[tuple[str, float, float]]:
    """(pair of rewards, within-group correlation in the first and last quarter of the run), most opposed first."""
    pairs = {pair for line in run.metrics for pair in line.get("conflict") or {}}
    rows = []
    for pair in pairs:
        values = [value for _, value in run.metric("conflict", pair)]
        quarter = max(1, len(values) // 4)
        if values:
            rows.append((pair.replace("/", " and "), _average(values[:quarter]), _average(values[-quarter:])))
    return sorted(rows, key=lambda row: row[2])


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def seconds_rows(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """(part, seconds, share of the total); what the parts leave is `other`."""
    total = seconds.get("total") or 0.0
    parts = [
        (name, float(seconds[name])) for name in ("setup", "rollout", "reward", "train", "wait") if name in seconds
    ]
    rest = total - sum(value for _, value in parts)
    parts += [("other", rest)] if rest > 0 else []
    whole = sum(value for _, value in parts)
    return [(name, value, value / whole) for name, value in parts] if whole else []


def ledger(run: RunData) -> dict[str, Any] | None:
    """Group counts, reasons of losses, and whether the books balance; None before the first iteration."""
    groups = run.summary.get("groups") or (run.metrics[-1].get("groups") if run.metrics else None)
    if not groups:
        return None
    names = [n for n in ("submitted", "accepted", "trained", "dropped", "lost") if n in groups]
    counts = {name: tally(groups[name]) for name in names}
    split = {kind: (groups.get("reasons") or groups).get(kind) for kind in ("dropped", "lost")}
    reasons = [(f"{kind}: {r}", n) for kind, by in split.items() if isinstance(by, dict) for r, n in by.items()]
    if groups.get("abandoned"):
        reasons.append(("open when the run was stopped", groups["abandoned"]))
    settled = sum(counts.get(name, 0) for name in ("trained", "dropped", "lost"))
    return {"counts": counts, "reasons": reasons, "balanced": counts.get("submitted") == settled, "final": run.finished}


def health(run: RunData) -> list[tuple[str, Markup]]:
    """Small charts of how training went, with their titles."""
    charts = []
    for title, keys, digits in (
        ("Share at the trust region's limit", ("clip_fraction",), 2),
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
