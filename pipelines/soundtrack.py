"""One video's soundtrack: windows, sound, join, files. Memory is bounded by a stretch of the video, not its length."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cot_service.analysis import VideoAnalysis, analyse
from cot_service.analysis_planner import plan_from
from cot_service.build import build_planner
from cot_service.planner import Planner
from evaluation.samples import plain
from foundation.build import Foundation, load_foundation
from foundation.conditions import Conditions
from foundation.embedded import EmbeddedEncoder
from foundation.execution import execute
from foundation.generate import SamplerConfig, generate, store_reduced
from foundation.output import gain
from media.clip import Clip
from media.dubbing import dub
from media.features import FeatureStore
from media.manifest import ClipRecord
from media.scratch import SoundScratch, write_wav_blocks
from media.video import probe, read_clip
from pipelines.conditions import Conditioning, known_words, unknown_words
from pipelines.generate_recipe import GenerateRecipe
from pipelines.joining import join, overlap_add
from pipelines.recipe import find_model
from pipelines.segments import MAX_SECONDS, SHORT_SIDE, Segment, read_video, segments, shown
from settings import PrismError

EMBEDDED_BATCH = 64


@dataclass(frozen=True)
class Job:
    """One video. video, folder: absolute. named: the video as the user wrote it."""

    video: Path
    named: str
    caption: str | None
    folder: Path


@dataclass(frozen=True)
class Made:
    """A finished video, and what the user should know about it."""

    path: Path
    notes: tuple[str, ...] = ()


@dataclass
class Story:
    """What a video's windows were made from, collected while they are made.

    windows: as they are described to the user. seen: start and analysis of every stretch. seconds: of the picture, as
    far as it was read.
    """

    windows: list[dict[str, Any]]
    seen: list[tuple[float, VideoAnalysis]]
    seconds: float = 0.0

    def whole(self) -> VideoAnalysis:
        """The analyses of all stretches as one; where two overlap, the earlier one."""
        first = self.seen[0][1]
        if len(self.seen) == 1:
            return first
        ends = [*(start for start, _ in self.seen[1:]), self.seconds]
        parts = [(start, shown(seen, 0.0, end - start)) for (start, seen), end in zip(self.seen, ends, strict=True)]
        return replace(
            first,
            events=tuple(start + time for start, part in parts for time in part.events),
            strengths=tuple(strength for _, part in parts for strength in part.strengths),
            positions=tuple(position for _, part in parts for position in part.positions),
            confidence=float(np.mean([part.confidence for _, part in parts])),
        )


class SoundtrackMaker:
    """A loaded model that makes soundtracks as a recipe says."""

    def __init__(self, foundation: Foundation, recipe: GenerateRecipe, planner: Planner | None = None):
        self.foundation, self.recipe = foundation, recipe
        self.planner = planner or build_planner(recipe.planner)
        store = FeatureStore(recipe.features) if recipe.features else None
        self.conditioning = Conditioning(foundation, recipe.planner.template, store)
        # A long video is levelled as a whole: windows scaled one by one would jump against each other.
        windows = "limit" if recipe.sampler.peak == "limit" else "none"
        self.sampler: SamplerConfig = recipe.sampler.model_copy(update={"peak": windows})

    @classmethod
    def load(cls, recipe: GenerateRecipe, threads: int | None = None) -> "SoundtrackMaker":
        """Read the recipe's model onto its device. threads: torch's, unless the recipe says. Raises PrismError."""
        if (count := recipe.torch_threads or threads) is not None:
            torch.set_num_threads(count)
        device = recipe.on()
        foundation = load_foundation(find_model(recipe.model), device)
        foundation.flow.requires_grad_(False)
        execute(foundation.flow, recipe.execution)
        if recipe.execution.precision == "bf16" and device.type == "cuda":
            store_reduced(foundation.flow)
        return cls(foundation, recipe)

    def make(self, job: Job) -> Made:
        """Write NAME.mp4, NAME.wav and NAME.json into the job's folder.

        Raises MediaError, and PrismError when that would overwrite the input.
        """
        target = job.folder / f"{job.video.stem}.mp4"
        if target.resolve() == job.video.resolve():
            raise PrismError(f"{target} is the input itself; choose another folder with -o.")
        rate, story = self.foundation.codec.sample_rate, Story([], [])
        with SoundScratch(job.folder / f".{job.video.stem}.samples") as scratch:
            fade = round(self.recipe.overlap_seconds * rate)
            for block in join(self._pieces(job, story), fade, self.recipe.crossfade):
                # A piece of whole latent frames may be a little longer than the picture.
                scratch.append(block[:, : self._samples(story) - scratch.samples].numpy())
            missing = self._samples(story) - scratch.samples
            scratch.append(np.zeros((2, missing), np.float32))
            factor = gain(scratch.peak, self.recipe.sampler.peak)
            write_wav_blocks(target.with_suffix(".wav"), scratch.blocks(factor), rate, scratch.samples)
            self._describe(job, story, target.with_suffix(".json"))
            dub(job.video, scratch.blocks(factor), rate, target)
        return Made(target, self._notes(job.caption))

    def _samples(self, story: Story) -> int:
        return round(story.seconds * self.foundation.codec.sample_rate)

    def _pieces(self, job: Job, story: Story) -> Iterator[tuple[int, Tensor]]:
        """(first sample, sound (2, S)) of every window, in order; noise is of the seed and the window's number."""
        rate, seconds = self.foundation.codec.sample_rate, self.foundation.seconds
        for offset, clip in stretches(job.video, seconds, self.recipe.overlap_seconds, MAX_SECONDS):
            seen = analyse(clip)
            story.seconds = offset + clip.seconds
            story.seen.append((offset, seen))
            found = windows(self.foundation, job.video, clip, seen, job.caption, self.planner, self._hop, offset)
            number = len(story.windows)
            story.windows += [
                {"start": s.start, **s.plan.as_dict(), "events": plain(s.reference.events)} for s in found
            ]
            for places, conditions in self._batches(found):
                noise = [(self.recipe.seed, number + place) for place in places]
                frames = self.foundation.frames(found[places[0]].reference.seconds)
                sounds = generate(self.foundation, conditions, frames, noise, self.sampler).cpu()
                for place, sound in zip(places, sounds, strict=True):
                    yield round(found[place].start * rate), sound

    @property
    def _hop(self) -> float:
        return self.foundation.seconds - self.recipe.overlap_seconds

    def _batches(self, found: Sequence[Segment]) -> Iterator[tuple[list[int], Conditions]]:
        """Neighbouring windows whose conditions have the same shapes, encoded when their turn comes."""
        if self.recipe.batch is None and isinstance(self.foundation.encoder, EmbeddedEncoder):
            for first in range(0, len(found), EMBEDDED_BATCH):
                places = list(range(first, min(first + EMBEDDED_BATCH, len(found))))
                yield places, self.conditioning([found[k] for k in places])
            return
        on_cpu = next(self.foundation.flow.parameters()).device.type == "cpu"
        size = 1 if on_cpu else self.recipe.batch or 1
        places: list[int] = []
        parts: list[Conditions] = []
        for place, segment in enumerate(found):
            one = self.conditioning([segment])
            if parts and (len(parts) == size or _shapes(parts[0]) != _shapes(one)):
                yield places, Conditions.cat(parts)
                places, parts = [], []
            places, parts = [*places, place], [*parts, one]
        yield places, Conditions.cat(parts)

    def _describe(self, job: Job, story: Story, path: Path) -> None:
        described = {
            "video": job.named,
            "seed": self.recipe.seed,
            "plan": plan_from(story.whole(), job.caption).as_dict(),
            "windows": story.windows,
        }
        path.write_text(json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8")

    def _notes(self, caption: str | None) -> tuple[str, ...]:
        unknown = unknown_words(self.foundation, caption) if caption else []
        if not unknown:
            return ()
        return (
            f"The model never saw these caption words and will ignore them: {', '.join(unknown)}. It knows: "
            f"{', '.join(known_words(self.foundation))}.",
        )


def stretches(path: Path, window: float, overlap: float, most: float) -> Iterator[tuple[float, Clip]]:
    """(start, clip) of a video of any length in parts that share windows' overlap; `most` seconds are held at once.

    Each part begins where a window begins, `window - overlap` seconds after the one before; the last part is as long as
    a window at least. Raises the MediaError that fits, and PrismError for too short a video.
    """
    seconds = probe(path).seconds
    if seconds <= most:
        yield 0.0, read_video(path)
        return
    hop = window - overlap
    count = max(1, int((most - window) / hop) + 1)
    start = 0.0
    while seconds - start > most:
        yield (
            start,
            read_clip(path, short_side=SHORT_SIDE, start=start, seconds=window + (count - 1) * hop, audio=False),
        )
        start += count * hop
    start = min(start, seconds - window)
    yield start, read_clip(path, short_side=SHORT_SIDE, start=start, audio=False)


def windows(
    foundation: Foundation,
    video: Path,
    clip: Clip,
    seen: VideoAnalysis,
    caption: str | None,
    planner: Planner | None = None,
    hop: float | None = None,
    offset: float = 0.0,
) -> list[Segment]:
    """Overlapping segments of a decoded and analysed stretch, with their plans; `offset` is where it begins."""
    recipe = GenerateRecipe()
    record = ClipRecord(
        id=video.stem, uri=str(video), seconds=clip.seconds, fps=clip.fps, n_frames=len(clip.frames), sample_rate=0,
        channels=0, caption=caption, split="generate", sha256="",
    )  # fmt: skip
    hop = hop or foundation.seconds - recipe.overlap_seconds
    found = segments(record, clip, planner or build_planner(recipe.planner), foundation.seconds, hop, seen)
    return [replace(segment, start=offset + segment.start) for segment in found] if offset else found


def soundtrack(
    foundation: Foundation, found: Sequence[Segment], samples: int, seed: int, guidance: float, steps: int
) -> np.ndarray:
    """Sound (2, samples) of a short video from its windows, without writing anything."""
    rate, frames = foundation.codec.sample_rate, foundation.frames(found[0].reference.seconds)
    config = SamplerConfig(steps=steps, guidance=guidance)
    noise = [(seed, index) for index in range(len(found))]
    pieces = generate(foundation, Conditioning(foundation)(found), frames, noise, config)
    fade = round(GenerateRecipe().overlap_seconds * rate)
    return overlap_add(pieces, [round(s.start * rate) for s in found], samples, fade).numpy()


def _shapes(conditions: Conditions) -> tuple[torch.Size, ...]:
    """Shapes of one window's conditions, which must agree in a batch."""
    return conditions.video.shape[1:], conditions.text.shape[1:], conditions.sync.shape[1:]
