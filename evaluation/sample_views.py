"""Before and after: the samples of a run as the report shows them."""

import base64
from dataclasses import dataclass
from typing import Any

from cot_service.plan import DIMENSIONS
from evaluation import present
from evaluation.run_data import RunData
from evaluation.samples import Sample, SamplePair, SampleRecord
from evaluation.strips import Strips, draw_strips
from media.video import read_clip
from settings import PrismError

EMBED_LIMIT = 48_000_000  # bytes of video inside the page; beyond it videos are linked


@dataclass(frozen=True)
class SampleView:
    """One side of a before/after pair as the page shows it."""

    scores: list[tuple[str, float | None, str]]
    total: float | None
    video: str | None
    strips: Strips | None
    details: list[tuple[str, list[present.Row]]]


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
    scores = [(d, record.scores.get(d), record.missing.get(d, "not scored")) for d in DIMENSIONS]
    details = [(d, present.details(record.measured[d])) for d in DIMENSIONS if record.measured.get(d)]
    return SampleView(scores, record.total, source, strips, details)
