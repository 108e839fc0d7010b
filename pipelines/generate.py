"""`prism generate`: a soundtrack for any video, under its untouched picture."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cot_service.analysis import VideoAnalysis, analyse
from cot_service.analysis_planner import plan_from
from cot_service.build import build_planner
from cot_service.config import PlannerConfig
from evaluation.samples import plain
from foundation.build import Foundation, load_foundation
from foundation.generate import sample_waveforms
from foundation.output import limit_peak
from media.audio import write_wav
from media.clip import Clip
from media.manifest import ClipRecord
from media.writing import mux
from pipelines.conditions import features, known_words, unknown_words
from pipelines.recipe import find_model
from pipelines.segments import Segment, read_video, segments
from settings import PrismError

OVERLAP_SECONDS = 0.25

log = logging.getLogger(__name__)


def generate(
    videos: Sequence[Path],
    caption: str | None,
    out_dir: Path,
    model: Path | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    steps: int = 16,
) -> list[Path]:
    """Write NAME.mp4 (or the picture's own container), NAME.wav and NAME.json for each video; returns the videos.

    A video longer than the model's clips is made in overlapping windows that are cross-faded. Deterministic by seed.
    Raises MediaError, CheckpointError, and PrismError when two videos would be written to one name.
    """
    stems = [video.stem for video in videos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise PrismError(f"Several videos are called {', '.join(twice)}; generate them into different folders.")
    foundation = load_foundation(find_model(model))
    if caption and (unknown := unknown_words(foundation, caption)):
        log.warning(
            "The model never saw these caption words and will ignore them: %s. It knows: %s.",
            ", ".join(unknown),
            ", ".join(known_words(foundation)),
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    return [_one(foundation, video, caption, out_dir, seed, guidance, steps) for video in videos]


def soundtrack(
    foundation: Foundation, found: Sequence[Segment], samples: int, seed: int, guidance: float, steps: int
) -> np.ndarray:
    """Sound (2, samples) of a video from its windows, cross-faded where they overlap."""
    rate, frames = foundation.codec.sample_rate, foundation.frames(found[0].reference.seconds)
    noise = [(seed, index) for index in range(len(found))]
    pieces = sample_waveforms(foundation, features(foundation, found), frames, noise, steps, guidance)
    return overlap_add(pieces, [round(s.start * rate) for s in found], samples, round(OVERLAP_SECONDS * rate)).numpy()


def overlap_add(pieces: Tensor, starts: Sequence[int], samples: int, fade: int) -> Tensor:
    """Join (B, 2, S) pieces that begin at `starts` (in samples): weights ramp over `fade` samples and sum to 1."""
    length = pieces.shape[-1]
    total, weight = torch.zeros(2, samples), torch.zeros(samples)
    ramp = torch.linspace(0, 1, fade + 2)[1:-1]
    for index, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        envelope = torch.ones(length)
        if index > 0:
            envelope[:fade] = ramp[: min(fade, length)]
        if index < len(starts) - 1:
            envelope[-fade:] = envelope[-fade:] * ramp.flip(0)[-min(fade, length) :]
        stop = min(samples, start + length)
        total[:, start:stop] += (envelope * piece)[:, : stop - start]
        weight[start:stop] += envelope[: stop - start]
    return limit_peak(total / weight.clamp_min(1e-6))


def windows(foundation: Foundation, video: Path, clip: Clip, seen: VideoAnalysis, caption: str | None) -> list[Segment]:
    """Overlapping segments of a decoded and analysed video with their plans."""
    record = ClipRecord(
        id=video.stem, uri=str(video), seconds=clip.seconds, fps=clip.fps, n_frames=len(clip.frames), sample_rate=0,
        channels=0, caption=caption, split="generate", sha256="",
    )  # fmt: skip
    length = foundation.seconds
    return segments(record, clip, build_planner(PlannerConfig()), length, length - OVERLAP_SECONDS, seen)


def _one(
    foundation: Foundation, video: Path, caption: str | None, out_dir: Path, seed: int, guidance: float, steps: int
) -> Path:
    target = out_dir / f"{video.stem}.mp4"
    if target.resolve() == video.resolve():
        raise PrismError(f"{target} is the input itself; choose another folder with -o.")
    clip = read_video(video)
    seen = analyse(clip)
    found = windows(foundation, video, clip, seen, caption)
    rate = foundation.codec.sample_rate
    sound = soundtrack(foundation, found, round(clip.seconds * rate), seed, guidance, steps)
    write_wav(out_dir / f"{video.stem}.wav", sound, rate)
    described = {
        "video": str(video),
        "seed": seed,
        "plan": plan_from(seen, caption).as_dict(),
        "windows": [{"start": s.start, **s.plan.as_dict(), "events": plain(s.reference.events)} for s in found],
    }
    text = json.dumps(described, indent=1, ensure_ascii=False)
    (out_dir / f"{video.stem}.json").write_text(text, encoding="utf-8")
    mux(video, sound, rate, target)
    return target
