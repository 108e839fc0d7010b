"""Before and after: the samples of a run as the report shows them."""

import base64
from dataclasses import dataclass
from typing import Any

from evaluation import present
from evaluation.run_data import RunData
from evaluation.samples import Sample, SamplePair, SampleRecord
from evaluation.strips import Strips, draw_strips
from media.video import read_clip
from settings import PrismError

EMBED_LIMIT = 48_000_000  # bytes of video inside the page; beyond it videos are linked


@dataclass(frozen=True)
class Bar:
    """One score of one sound. share: of the range it is drawn on, None without one. gone: why there is no score.

    The range is [0, 1] for scores within it whose bounds are wider, else the bounds.
    """

    name: str
    tone: str
    value: float | None
    share: float | None
    gone: str


@dataclass(frozen=True)
class SampleView:
    """One side of a before/after pair as the page shows it. details: dimension, its tone, what was measured."""

    scores: list[Bar]
    total: float | None
    video: str | None
    strips: Strips | None
    details: list[tuple[str, str, list[present.Row]]]


def sample_views(run: RunData, notes: list[str]) -> list[dict[str, Any]]:
    """Every clip with both its sides; what cannot be shown is added to `notes`."""
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
    scores = [_bar(record, name, run.tone(name)) for name in run.dimensions]
    measured = [(name, record.measured[name]) for name in run.dimensions if record.measured.get(name)]
    details = [(name, run.tone(name), present.details(found)) for name, found in measured]
    return SampleView(scores, record.total, source, strips, details)


def _bar(record: SampleRecord, name: str, tone: str) -> Bar:
    value = record.scores.get(name)
    if value is None:
        gated = record.gated.get(name)
        why = f"not judged: {gated}" if gated else f"missing: {record.missing.get(name, 'not scored')}"
        return Bar(name, tone, None, None, why)
    low, high = record.bounds.get(name, (0.0, 1.0))
    if (low is None or low <= 0) and (high is None or high >= 1):
        low, high = (0.0, 1.0) if 0 <= value <= 1 else (low, high)
    share = None if low is None or high is None or high <= low else (value - low) / (high - low)
    return Bar(name, tone, value, share, "")
