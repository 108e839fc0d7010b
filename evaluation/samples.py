"""Samples of a run on disk: one video with sound and one JSON record per clip, before and after training."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from media.clip import Clip
from media.video import mux, write_clip

Phase = Literal["before", "after"]


@dataclass(frozen=True)
class SampleRecord:
    """What is known about one generated sound.

    plan: the four texts and their source. scores: dimension -> score, None where it is missing (the reason is in
    `missing`) or says nothing about this clip (the reason is in `gated`). bounds: dimension -> lowest and highest
    score, None where there is none; (0, 1) for those not named. measured: dimension -> what its scorer found.
    events: visible impacts in s. positions: -1..1 per frame at `position_fps` Hz.
    """

    clip_id: str
    seconds: float
    plan: dict[str, str] = field(default_factory=dict)
    caption: str | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: tuple[float, ...] = ()
    positions: tuple[float, ...] = ()
    position_fps: float = 1.0

    @property
    def total(self) -> float | None:
        """Unweighted mean of the scores but the gated ones; None when there are none or one is missing."""
        judged = [value for name, value in self.scores.items() if name not in self.gated]
        values = [value for value in judged if value is not None]
        return sum(values) / len(values) if values and len(values) == len(judged) else None


@dataclass(frozen=True)
class Sample:
    """A record with its video, None when the video is absent."""

    record: SampleRecord
    video: Path | None


@dataclass(frozen=True)
class SamplePair:
    """One clip before and after training; either may be absent."""

    clip_id: str
    before: Sample | None
    after: Sample | None


def save_sample(
    run_dir: Path, phase: Phase, record: SampleRecord, picture: Path | Clip, waveform: np.ndarray, sample_rate: int
) -> Path:
    """Put (2, S) sound under a picture and write the record beside it; returns the video's path.

    picture: a video file, whose packets are copied untouched, or decoded frames. Raises the MediaError that fits.
    """
    folder = run_dir / "samples" / phase
    folder.mkdir(parents=True, exist_ok=True)
    stem = file_stem(record.clip_id)
    video = folder / f"{stem}.mp4"
    if isinstance(picture, Clip):
        write_clip(video, picture.frames, picture.fps, waveform, sample_rate)
    else:
        mux(picture, waveform, sample_rate, video)
    text = json.dumps(plain(asdict(record)), indent=1, ensure_ascii=False)
    (folder / f"{stem}.json").write_text(text, encoding="utf-8")
    return video


def file_stem(clip_id: str) -> str:
    """A file name for a clip id: itself where that is safe, else made safe and told apart by a hash."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in clip_id)[:60]  # at most 240 bytes
    if safe == clip_id and not safe.startswith("."):
        return safe
    return f"{safe.lstrip('.')}-{hashlib.sha256(clip_id.encode()).hexdigest()[:8]}"


def read_samples(run_dir: Path, problems: list[str]) -> list[SamplePair]:
    """All pairs under `run_dir/samples`, by clip id; what cannot be read is added to `problems`."""
    phases = [_read_phase(run_dir / "samples" / phase, problems) for phase in ("before", "after")]
    pairs = []
    for stem in sorted({*phases[0], *phases[1]}):
        before, after = phases[0].get(stem), phases[1].get(stem)
        known = [sample.record.clip_id for sample in (after, before) if sample is not None]
        pairs.append(SamplePair(next((name for name in known if name != stem), stem), before, after))
    return pairs


def _read_phase(folder: Path, problems: list[str]) -> dict[str, Sample]:
    samples = {}
    stems = {p.stem for p in folder.glob("*.mp4")} | {p.stem for p in folder.glob("*.json")}
    for stem in stems:
        video, record = folder / f"{stem}.mp4", folder / f"{stem}.json"
        samples[stem] = Sample(_read_record(record, stem, problems), video if video.is_file() else None)
    return samples


def _read_record(path: Path, stem: str, problems: list[str]) -> SampleRecord:
    try:
        return SampleRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        problems.append(f"samples/{path.parent.name}/{path.name} cannot be read: {error}.")
        return SampleRecord(clip_id=stem, seconds=0.0)


def plain(value: Any) -> Any:
    """A nested value with only what strict JSON holds: numpy becomes lists and numbers, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
