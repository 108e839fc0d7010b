"""Clips of the model's length out of any video, each with its plan and the reference its sound is judged against."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cot_service.analysis import VideoAnalysis, analyse
from cot_service.analysis_planner import AnalysisPlanner, plan_from
from cot_service.plan import Plan
from cot_service.planner import Planner
from media.clip import Clip
from media.manifest import ClipRecord, Rejected
from media.video import probe, read_clip
from rewards_service.scores import Origin, Reference
from settings import PrismError

SHORT_SIDE = 96  # pixels that motion analysis and the small encoders look at
MAX_SECONDS = 120.0  # decoded at once
MIN_SECONDS = 0.25


@dataclass(frozen=True)
class Segment:
    """One stretch of a video, at most as long as the model's clips.

    seen: what the motion analysis found in it.
    """

    id: str
    path: Path
    start: float
    clip: Clip
    caption: str | None
    label: str | None
    plan: Plan
    reference: Reference
    seen: VideoAnalysis


def starts(total: float, length: float, hop: float) -> list[float]:
    """Starts of windows of `length` seconds that cover `total` seconds; the last one ends where the video ends."""
    if total <= length:
        return [0.0]
    count = int(np.ceil((total - length) / hop - 1e-6)) + 1
    return [min(k * hop, total - length) for k in range(count)]


def read_video(path: Path, sample_rate: int | None = None) -> Clip:
    """A whole video, small, with its sound. Raises the MediaError that fits, or PrismError for an unusable length."""
    seconds = probe(path).seconds
    if seconds > MAX_SECONDS:
        raise PrismError(
            f"{path} is {seconds:.0f} s long; at most {MAX_SECONDS:.0f} s are handled at once. Cut it into "
            "shorter files."
        )
    clip = read_clip(path, short_side=SHORT_SIDE, sample_rate=sample_rate)
    if clip.seconds < MIN_SECONDS:
        raise PrismError(f"{path} lasts {clip.seconds:.2f} s; expected at least {MIN_SECONDS} s of picture.")
    return clip


def part(clip: Clip, start: float, seconds: float) -> Clip:
    """A stretch of a decoded clip; start and length are rounded to whole frames."""
    first = round(start * clip.fps)
    last = min(len(clip.frames), first + max(1, round(seconds * clip.fps)))
    sound = None
    if clip.waveform is not None and clip.sample_rate:
        sound = clip.waveform[:, round(first / clip.fps * clip.sample_rate) : round(last / clip.fps * clip.sample_rate)]
    return Clip(clip.path, clip.frames[first:last], clip.fps, sound, clip.sample_rate)


def shown(analysis: VideoAnalysis, start: float, seconds: float) -> VideoAnalysis:
    """What an analysis says about a stretch, with times counted from its start."""
    inside = [k for k, time in enumerate(analysis.events) if start <= time < start + seconds]
    first = round(start * analysis.fps)
    return VideoAnalysis(
        events=tuple(analysis.events[k] - start for k in inside),
        strengths=tuple(analysis.strengths[k] for k in inside),
        positions=analysis.positions[first : first + max(1, round(seconds * analysis.fps))],
        fps=analysis.fps,
        confidence=analysis.confidence,
        method=analysis.method,
    )


def segments(
    record: ClipRecord,
    clip: Clip,
    planner: Planner,
    length: float,
    hop: float | None = None,
    seen: VideoAnalysis | None = None,
) -> list[Segment]:
    """Windows of `length` seconds of a decoded video. What the record does not know is read from the picture.

    seen: the video's analysis, if there is one already.
    """
    seen = seen or analyse(clip)
    found = []
    # The record's own length where frames and header agree, so that a stretch has the same name wherever it is cut.
    total = record.seconds if abs(record.seconds - clip.seconds) * clip.fps <= 1.5 else clip.seconds
    for start in starts(total, length, hop or length):
        seconds = min(length, total)
        here, window = shown(seen, start, seconds), part(clip, start, seconds)
        plan = (
            plan_from(here, record.caption)
            if isinstance(planner, AnalysisPlanner)
            else planner.plan(window, record.caption)
        )
        name = record.id if start == 0 else f"{record.id}@{start:.2f}"
        reference = _reference(name, record, here, plan, start, seconds)
        found.append(
            Segment(name, Path(record.uri), start, window, record.caption, record.label, plan, reference, here)
        )
    return found


def _reference(
    name: str, record: ClipRecord, seen: VideoAnalysis, plan: Plan, start: float, seconds: float
) -> Reference:
    origin: dict[str, Origin] = {"events": "picture", "positions": "picture"}
    events, positions, fps = seen.events, seen.positions, seen.fps
    if record.events is not None:
        origin["events"] = "truth"
        events = tuple(time - start for time in record.events if start <= time < start + seconds)
    if record.positions is not None and record.position_fps:
        origin["positions"] = "truth"
        fps = record.position_fps
        positions = tuple(record.positions[round(start * fps) : round((start + seconds) * fps)])
    return Reference(name, plan.semantic, seconds, events, positions, fps, origin, plan.join(), record.uri, start)


def read_segments(
    records: Iterable[ClipRecord],
    planner: Planner,
    length: float,
    sample_rate: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Segment], list[Rejected]]:
    """Segments of every record that can be read, and the files that cannot, with the reason."""
    found: list[Segment] = []
    rejected: list[Rejected] = []
    for done, record in enumerate(records, start=1):
        try:
            found += segments(record, read_video(Path(record.uri), sample_rate), planner, length)
        except PrismError as error:
            rejected.append(Rejected(record.uri, str(error)))
        on_progress(done)
    return found, rejected
