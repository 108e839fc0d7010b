"""`prism score`: the four rewards of a clip and what each of them measured."""

from pathlib import Path
from typing import Any

import numpy as np

from cot_service.analysis import analyse
from cot_service.analysis_planner import plan_from
from evaluation.samples import plain
from media.audio import fit_length, read_audio
from pipelines.segments import read_video
from rewards_service.build import build_scorers
from rewards_service.config import RewardConfig
from rewards_service.scores import Reference
from settings import PrismError


def score(video: Path, audio: Path | None = None, caption: str | None = None) -> dict[str, Any]:
    """Score a video's own sound, or another file's, against what its picture shows.

    Returns {"scores": {dimension: {"score", "measured"}}, "total", "plan", "notes"}; a score that could not be measured
    is None. Raises MediaError, and PrismError for a video without sound when no other is given.
    """
    rate = RewardConfig().sample_rate
    clip = read_video(video, rate)
    if audio is not None:
        sound = fit_length(read_audio(audio, rate)[0], round(clip.seconds * rate))
    elif clip.waveform is not None:
        sound = clip.waveform
    else:
        raise PrismError(
            f"{video} has no sound to score. Give a file as second argument, or run `prism generate` first."
        )
    seen = analyse(clip)
    plan = plan_from(seen, caption)
    reference = Reference(
        video.stem, plan.semantic, clip.seconds, seen.events, seen.positions, seen.fps,
        {"events": "picture", "positions": "picture"}, plan.join(), str(video),
    )  # fmt: skip
    entries: dict[str, Any] = {}
    for name, scorer in build_scorers().items():
        scored = scorer.score(sound[None, None], rate, [reference], detail=True)
        value = float(scored.values[0, 0])
        measured = dict(scored.measured[0][0]) if scored.measured else {}
        if np.isnan(value):
            measured["missing"] = scored.missing.get((0, 0), "no reason given")
        entries[name] = {"score": None if np.isnan(value) else value, "measured": plain(measured)}
    values = [entry["score"] for entry in entries.values()]
    notes = ["Impacts and positions are what the picture shows, not a known truth."]
    if not caption:
        notes.append("Without --caption the semantic score only asks whether the sound is like any known thing.")
    total = sum(values) / len(values) if None not in values else None
    return {"video": str(video), "scores": entries, "total": total, "plan": plan.as_dict(), "notes": notes}
