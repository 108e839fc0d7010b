"""The clips a model is judged on, prepared once: conditions, references, and what is known of their true sound."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from evaluation.heldout import HeldOut, evaluate
from evaluation.measures import Measures, measure
from evaluation.samples import Phase, SampleRecord, save_sample
from evaluation.watchers import NOBODY, Edge, Watchers
from foundation.build import Foundation
from foundation.conditions import Conditions
from foundation.generate import sample_waveforms
from foundation.model import FlowModel
from pipelines.conditions import Conditioning
from pipelines.recipe import EvaluationConfig
from pipelines.segments import Segment
from rewards_service.judge import Judge
from rewards_service.scores import Scorer
from rewards_service.spatial import SpatialScorer


@dataclass(frozen=True)
class _Group:
    """Clips of one length: their places among all, conditions and latent frames."""

    places: tuple[int, ...]
    conditions: Conditions
    frames: int


class HeldOutSet:
    """Scores models on fixed clips with fixed noise. Picklable, so that a remote learner can carry it.

    scorers: by dimension. judge: the classifier that watches the semantic one where nothing else does. judges: scorers
    that are never trained on, by the dimension they watch instead of what is built in, as `remote.judges` gives them.
    """

    def __init__(
        self,
        foundation: Foundation,
        found: Sequence[Segment],
        scorers: Mapping[str, Scorer],
        config: EvaluationConfig,
        judge: Judge | None = None,
        conditioning: Conditioning | None = None,
        on_progress: Callable[[int], None] = lambda done: None,
        judges: Mapping[str, Scorer] | None = None,
    ):
        self.foundation, self.config, self.judge = foundation, config, judge
        self.scorers, self.judges = dict(scorers), dict(judges or {})
        self.references = [segment.reference for segment in found]
        self.labels = [segment.label for segment in found]
        self.sounds = [segment.clip.waveform for segment in found]
        self.truthful = all(r.origin.get("events") == "truth" for r in self.references)
        self.watchers = Watchers.of(
            foundation.codec.sample_rate, self.references, self.labels, self.sounds, judge, _edge(self.scorers),
            tuple(self.judges),
        )  # fmt: skip
        self.groups = [
            _Group(tuple(places), conditions, foundation.frames(found[places[0]].reference.seconds))
            for places, conditions in (conditioning or Conditioning(foundation)).groups(found, on_progress)
        ]

    def __len__(self) -> int:
        return len(self.references)

    @property
    def notes(self) -> list[str]:
        """What the user should know about the hacking monitor on these clips."""
        return [f"No alarm can come for {name}: {why}." for name, why in self.unwatched.items()]

    @property
    def unwatched(self) -> dict[str, str]:
        """Why no alarm can come for a scored dimension; empty when all are watched."""
        known = self.watchers.scenes
        found = {name: NOBODY for name in self.scorers if name not in known}
        return {name: why for name, why in self.watchers.unwatched.items() if name in self.scorers} | found

    def score(self, model: FlowModel | None = None, guidance: float | None = None, detail: bool = False) -> HeldOut:
        """Scores per clip, in the order of the segments, and the sounds; at config.cfg_scale also what watches them.

        guidance: another scale than config.cfg_scale.
        """
        guidance = self.config.cfg_scale if guidance is None else guidance
        parts = [self._score(group, model, guidance, detail) for group in self.groups]
        return parts[0] if len(parts) == 1 else _in_order(parts, [place for g in self.groups for place in g.places])

    def measures(self, scored: HeldOut) -> Measures | None:
        """What is not rewarded, where the truth is known; None without it or with clips of several lengths."""
        if not self.truthful or not isinstance(scored.waveforms, np.ndarray):
            return None
        labels = [label for label in self.labels if label is not None]
        clean = [sound for sound in self.sounds if sound is not None]
        known = len(labels) == len(self) and self.judge is not None
        return measure(
            scored.waveforms,
            self.foundation.codec.sample_rate,
            self.references,
            clean=clean if len(clean) == len(self) else None,
            labels=labels if known else None,
            classify=self.judge.predict if known and self.judge is not None else None,
        )

    def save_samples(self, run_dir: Path, phase: Phase, scored: HeldOut, found: Sequence[Segment]) -> None:
        """Write the first clips with the model's sound under their picture, and what was measured."""
        if scored.waveforms is None:
            return
        for k, segment in enumerate(found[: self.config.samples]):
            reference = segment.reference
            record = SampleRecord(
                clip_id=segment.id,
                seconds=reference.seconds,
                plan=segment.plan.as_dict(),
                caption=segment.caption,
                scores={name: None if np.isnan(v[k]) else float(v[k]) for name, v in scored.scenes.items()},
                missing={n: reasons[segment.id] for n, reasons in scored.missing.items() if segment.id in reasons},
                gated={n: reasons[segment.id] for n, reasons in scored.gated.items() if segment.id in reasons},
                bounds={name: bounds for name, scorer in self.scorers.items() if (bounds := _bounds(scorer)) != (0, 1)},
                measured={name: rows[k] for name, rows in scored.measured.items() if rows},
                events=reference.events,
                positions=reference.positions,
                position_fps=reference.position_fps,
            )
            save_sample(run_dir, phase, record, segment.clip, scored.waveforms[k], self.foundation.codec.sample_rate)

    def _score(self, group: _Group, model: FlowModel | None, guidance: float, detail: bool) -> HeldOut:
        def generate(places: Sequence[int]) -> np.ndarray:
            rows = [group.places.index(place) for place in places]
            noise = [(self.config.seed, place) for place in places]
            codec = self.foundation.codec
            if isinstance(codec, nn.Module):
                codec.to(next((model or self.foundation.flow).parameters()).device)
            sounds = sample_waveforms(
                self.foundation, group.conditions[slice(rows[0], rows[-1] + 1)], group.frames, noise,
                self.config.steps, guidance, model,
            )  # fmt: skip
            return sounds.cpu().numpy()

        references = [self.references[place] for place in group.places]
        watch = self._watch if guidance == self.config.cfg_scale else None
        return evaluate(
            generate, group.places, references, self.scorers, self.foundation.codec.sample_rate,
            batch=self.config.batch, detail=detail, keep_waveforms=True, watch=watch,
            judges=self.judges if watch is not None else None,
        )  # fmt: skip

    def _watch(self, waveforms: np.ndarray, places: Sequence[int]) -> dict[str, np.ndarray]:
        measured = self.watchers.measure(waveforms, places)
        return {name: column for name, column in measured.items() if name in self.scorers}


def _edge(scorers: Mapping[str, Scorer]) -> Edge:
    """What a recipe says of a source at the picture's edge holds for both who measure it."""
    spatial = scorers.get("spatial")
    return Edge(spatial.level_db, 1e3 * spatial.delay_s) if isinstance(spatial, SpatialScorer) else Edge()


def _bounds(scorer: Scorer) -> tuple[float, float]:
    """Lowest and highest score."""
    return getattr(scorer, "bounds", (0.0, 1.0))


def _in_order(parts: Sequence[HeldOut], places: Sequence[int]) -> HeldOut:
    """Several groups put back into one order."""
    order = np.argsort(places)
    merged = parts[0]
    names = merged.scenes
    ids = [clip for p in parts for clip in p.clip_ids]
    measured = {n: [m for p in parts for m in p.measured.get(n, [])] for n in names}
    sounds = [sound for p in parts for sound in (p.waveforms if p.waveforms is not None else ())]
    ordered = [sounds[k] for k in order] if sounds else None
    if ordered and len({sound.shape for sound in ordered}) == 1:
        ordered = np.stack(ordered)
    return replace(
        merged,
        clip_ids=tuple(ids[k] for k in order),
        scenes={n: np.concatenate([p.scenes[n] for p in parts])[order] for n in names},
        total=np.concatenate([p.total for p in parts])[order],
        missing=_together([p.missing for p in parts]),
        gated=_together([p.gated for p in parts]),
        measured={n: [rows[k] for k in order] for n, rows in measured.items() if rows},
        waveforms=ordered,
        watched={n: np.concatenate([p.watched[n] for p in parts])[order] for n in merged.watched},
        silent=_together([p.silent for p in parts]),
    )


def _together(parts: Sequence[dict[str, dict[str, str]]]) -> dict[str, dict[str, str]]:
    """Reasons by dimension and clip of several groups."""
    return {name: {c: r for p in parts for c, r in p.get(name, {}).items()} for p in parts for name in p}
