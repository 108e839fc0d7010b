"""Timelines under a video: the sound with what was seen and heard, the object's place with where it sounds."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from evaluation.measures import ONSET_TOLERANCE, event_pans, match_count, onsets
from evaluation.samples import SampleRecord
from rewards_service.scores import Reference
from scenes.sound import DELAY_SAMPLES, LEVEL_DB, SAMPLE_RATE

WIDTH = 1000
BINS = 250


@dataclass(frozen=True)
class Strips:
    """SVG timelines and the sentence that says how heard and seen impacts agree."""

    sound: Markup
    place: Markup | None
    heard: tuple[float, ...]
    agreement: str


def draw_strips(record: SampleRecord, waveform: np.ndarray, rate: int) -> Strips:
    """Timelines of (2, S) sound at `rate` Hz, over the record's seconds."""
    seconds = record.seconds or waveform.shape[1] / rate
    heard = tuple(float(t) for t in onsets(waveform, rate))
    reference = Reference(record.clip_id, "", seconds, record.events, record.positions, record.position_fps)
    place = _place(record, seconds, waveform, rate, reference) if record.positions else None
    return Strips(_sound(record.events, heard, seconds, waveform, rate), place, heard, _agreement(record.events, heard))


def _agreement(events: tuple[float, ...], heard: tuple[float, ...]) -> str:
    gaps = [min((abs(h - e) for h in heard), default=np.inf) for e in events]
    close = [g for g in gaps if g <= ONSET_TOLERANCE]
    matched = match_count(heard, events, ONSET_TOLERANCE)
    if not events:
        return "No impact is visible" + (f"; {len(heard)} heard." if heard else ", none is heard.")
    text = f"{matched} of {len(events)} visible impacts heard within {ONSET_TOLERANCE * 1e3:.0f} ms"
    extra = len(heard) - matched
    if close:
        text += f", {np.mean(close) * 1e3:.0f} ms apart on average"
    return text + (f"; {extra} more heard." if extra > 0 else ".")


def _sound(
    events: tuple[float, ...], heard: tuple[float, ...], seconds: float, waveform: np.ndarray, rate: int
) -> Markup:
    height, middle = 84, 42
    marks = "".join(f'<path class="seen" d="M{_x(e, seconds)},0V{height}"/>' for e in events)
    for time in heard:
        near = any(abs(time - e) <= ONSET_TOLERANCE for e in events)
        marks += f'<path class="heard{"" if near else " stray"}" d="M{_x(time, seconds)},{height - 9}V{height}"/>'
    scale = (middle - 8) / max(float(np.abs(waveform).max()), 1e-4)
    shapes = "".join(
        f'<path class="wave" d="{_envelope(channel, seconds, rate, middle + side * 1.0, side * scale)}"/>'
        for channel, side in zip(waveform, (-1, 1), strict=True)
    )
    return _strip(height, shapes + marks)


def _envelope(channel: np.ndarray, seconds: float, rate: int, base: float, scale: float) -> str:
    """Closed outline of a channel's peak level per bin, from `base` outwards."""
    edges = np.linspace(0, seconds * rate, BINS + 1).astype(int)
    peaks = [float(np.abs(channel[a:b]).max(initial=0.0)) for a, b in pairwise(edges)]
    points = [f"{(i + 0.5) * WIDTH / BINS:.1f},{base + peak * scale:.1f}" for i, peak in enumerate(peaks)]
    return f"M0,{base}L" + "L".join(points) + f"L{WIDTH},{base}Z"


def _place(record: SampleRecord, seconds: float, waveform: np.ndarray, rate: int, reference: Reference) -> Markup:
    height = 64

    def y(position: float) -> float:
        return height / 2 + float(np.clip(position, -1.15, 1.15)) / 1.15 * (height / 2 - 5)

    path = "L".join(f"{_x(i / record.position_fps, seconds)},{y(p):.1f}" for i, p in enumerate(record.positions))
    marks = f'<path class="middle" d="M0,{height / 2}H{WIDTH}"/><path class="path" d="M{path}"/>'
    edge_delay = DELAY_SAMPLES / SAMPLE_RATE * 1e3
    for pan in event_pans(waveform, rate, reference):
        x = _x(pan.time, seconds)
        level, delay = pan.level_db / LEVEL_DB, pan.delay_ms / edge_delay
        marks += f'<path class="spread" d="M{x},{y(level):.1f}V{y(delay):.1f}"/>'
        marks += f'<path class="ear" d="M{x},{y((level + delay) / 2):.1f}h0"/>'
    return _strip(height, marks)


def _x(time: float, seconds: float) -> str:
    return f"{time / max(seconds, 1e-6) * WIDTH:.1f}"


def _strip(height: int, content: str) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" aria-hidden="true">'
    return Markup(head + content + "</svg>")
