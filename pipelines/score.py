"""`prism score`: the rewards of a clip and what each of them measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import RayConfig
from cot_service.analysis import analyse
from cot_service.analysis_planner import plan_from
from evaluation.samples import plain
from media.audio import fit_length, read_audio
from pipelines.recipe import TrainRecipe
from pipelines.scoring import instruments
from pipelines.segments import read_video
from rewards_service.config import RewardConfig
from rewards_service.scores import Reference, Scores
from settings import PrismError
from settings.load import load


def score(
    video: Path,
    audio: Path | None = None,
    caption: str | None = None,
    recipe: Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a video's own sound, or another file's, against what its picture shows.

    recipe: of a training run, whose rewards are asked; the embedded four without it.
    Returns {"scores": {dimension: {"score", "measured"}}, "total", "plan", "notes"}; a score that could not be measured
    is None. Raises MediaError, PrismError for a video without sound when no other is given, and RewardError.
    """
    told = load(TrainRecipe, recipe, overrides) if recipe is not None else None
    config, ray = (told.rewards, told.ray) if told is not None else (RewardConfig(), RayConfig())
    rate = config.sample_rate
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
    with instruments(config, ray) as found:
        entries = {
            name: _entry(scorer.score(sound[None, None], rate, [reference], detail=True))
            for name, scorer in found.scorers.items()
        }
    values = [entry["score"] for entry in entries.values()]
    notes = ["Impacts and positions are what the picture shows, not a known truth."]
    if not caption and not config.scorers.get("semantic", RewardConfig().scorers["semantic"]).scorer:
        notes.append("Without --caption the semantic score only asks whether the sound is like any known thing.")
    total = sum(values) / len(values) if None not in values else None
    return {"video": str(video), "scores": entries, "total": total, "plan": plan.as_dict(), "notes": notes}


def _entry(scored: Scores) -> dict[str, Any]:
    """One dimension's part of the answer."""
    value = float(scored.values[0, 0])
    measured = dict(scored.measured[0][0]) if scored.measured else {}
    if np.isnan(value):
        measured["missing"] = scored.missing.get((0, 0)) or scored.gated.get(0, "no reason given")
    return {"score": None if np.isnan(value) else value, "measured": plain(measured)}
