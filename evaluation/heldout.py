"""Scores of a model on scenes it never saw, with everything a paired comparison needs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.statistics import Estimate, mean_estimate
from rewards_service.scores import Reference, Scorer
from settings import PrismError

Generate = Callable[[Sequence[Any]], np.ndarray]
Watch = Callable[[np.ndarray, Sequence[Any]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class HeldOut:
    """Scores per scene.

    clip_ids: the scenes, in order. scenes: dimension -> (B,) scores, NaN where missing or gated.
    total: (B,) unweighted mean over the dimensions that say something about the scene, NaN when any of them is missing.
    missing: dimension -> {clip id: reason}. gated: the same for scenes that a dimension says nothing about.
    measured: dimension -> what the scorer found per scene, if asked for.
    waveforms: (2, S) each, if asked for; one (B, 2, S) array where they are equally long. watched: dimension -> (B,)
    independent measures of these sounds, if asked for. judges: dimension -> who gave them, where it was a judge.
    silent: dimension -> {clip id: reason} why its judge gave none.
    """

    clip_ids: tuple[str, ...]
    scenes: dict[str, np.ndarray]
    total: np.ndarray
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: dict[str, dict[str, str]] = field(default_factory=dict)
    measured: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    waveforms: Sequence[np.ndarray] | np.ndarray | None = None
    watched: dict[str, np.ndarray] = field(default_factory=dict)
    judges: dict[str, str] = field(default_factory=dict)
    silent: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Mean and standard error over scenes of each dimension and of `total`."""
        return {name: mean_estimate(values) for name, values in self._columns().items()}

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """The estimates as plain JSON values, the form of `heldout.before` in summary.json."""
        return {name: estimate.as_dict() for name, estimate in self.estimates.items()}

    def means(self) -> dict[str, float | None]:
        """Dimension -> mean, the form of `heldout` in metrics.jsonl; null where nothing was scored."""
        return {name: (e.mean if e.n else None) for name, e in self.estimates.items()}

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Dimension -> {"clips": how many are gated, "reason": the commonest}, the form of `heldout.gated`."""
        return {name: {"clips": len(told), "reason": commonest(told)} for name, told in self.gated.items() if told}

    def _columns(self) -> dict[str, np.ndarray]:
        return {**self.scenes, "total": self.total}


def commonest(reasons: Mapping[Any, str]) -> str:
    """The reason given most often."""
    return Counter(reasons.values()).most_common(1)[0][0]


def mean_of_judged(scenes: Mapping[str, np.ndarray], gated: Mapping[str, np.ndarray]) -> np.ndarray:
    """(B,) mean over dimensions of (B,) scores, those left out where (B,) `gated` is True; NaN where one is missing."""
    values = np.stack(list(scenes.values()))
    left_out = np.stack([gated[name] for name in scenes])
    count = (~left_out).sum(axis=0)
    return np.where(count > 0, np.where(left_out, 0.0, values).sum(axis=0) / np.maximum(count, 1), np.nan)


def evaluate(
    generate: Generate,
    prompts: Sequence[Any],
    references: Sequence[Reference],
    scorers: Mapping[str, Scorer],
    sample_rate: int,
    *,
    batch: int = 32,
    detail: bool = False,
    keep_waveforms: bool = False,
    watch: Watch | None = None,
    judges: Mapping[str, Scorer] | None = None,
) -> HeldOut:
    """Generate one sound per prompt and score it in every dimension.

    generate: B prompts to (B, 2, S) float32 at `sample_rate` Hz. It owns noise and weights: use the same noise in every
    evaluation that is to be compared. watch: (B, 2, S) sounds and their prompts to {dimension: (B,)} measures.
    judges: scorers, by the dimension whose measure they give instead.
    Raises PrismError when nothing is given, counts disagree, or `generate` returns another shape.
    """
    if not prompts or len(prompts) != len(references):
        raise PrismError(
            f"Held-out evaluation needs prompts and one reference for each, "
            f"got {len(prompts)} prompts and {len(references)} references."
        )
    if not scorers:
        raise PrismError("Held-out evaluation was given no scorer; name at least one dimension.")
    asked = {name: _Answers(name, scorer) for name, scorer in scorers.items()}
    judged = {name: _Answers(name, judge) for name, judge in (judges or {}).items()}
    watched: dict[str, list[np.ndarray]] = {}
    kept = []
    for first in range(0, len(prompts), batch):
        chosen = list(references[first : first + batch])
        waveforms = np.asarray(generate(prompts[first : first + batch]), dtype=np.float32)
        if waveforms.ndim != 3 or waveforms.shape[:2] != (len(chosen), 2):
            raise PrismError(f"generate must return ({len(chosen)}, 2, samples), got {waveforms.shape}.")
        if keep_waveforms:
            kept.append(waveforms)
        if watch is not None:
            for name, values in watch(waveforms, prompts[first : first + batch]).items():
                watched.setdefault(name, []).append(values)
        for answers in asked.values():
            answers.ask(waveforms, sample_rate, chosen, detail)
        for answers in judged.values():
            answers.ask(waveforms, sample_rate, chosen)
    scenes = {name: answers.values for name, answers in asked.items()}
    measures = {name: np.concatenate(parts) for name, parts in watched.items()}
    return HeldOut(
        clip_ids=tuple(r.clip_id for r in references),
        scenes=scenes,
        total=mean_of_judged(scenes, {name: np.array(answers.left_out) for name, answers in asked.items()}),
        missing={name: answers.missing for name, answers in asked.items() if answers.missing},
        gated={name: answers.gated for name, answers in asked.items() if answers.gated},
        measured={name: answers.measured for name, answers in asked.items()} if detail else {},
        waveforms=np.concatenate(kept) if kept else None,
        watched=measures | {name: answers.values for name, answers in judged.items()},
        judges={name: getattr(judge, "title", type(judge).__name__) for name, judge in (judges or {}).items()},
        silent={name: told for name, answers in judged.items() if (told := answers.missing | answers.gated)},
    )


class _Answers:
    """What one scorer said about scene after scene, one sound each."""

    def __init__(self, name: str, scorer: Scorer) -> None:
        self._name, self._scorer = name, scorer
        self._columns: list[np.ndarray] = []
        self.missing: dict[str, str] = {}
        self.gated: dict[str, str] = {}
        self.left_out: list[bool] = []
        self.measured: list[dict[str, Any]] = []

    @property
    def values(self) -> np.ndarray:
        return np.concatenate(self._columns)

    def ask(self, waveforms: np.ndarray, rate: int, references: list[Reference], detail: bool = False) -> None:
        scores = self._scorer.score(waveforms[:, None], rate, references, detail)
        if scores.values.shape != (len(references), 1):
            raise PrismError(
                f"Scorer {self._name} returned shape {scores.values.shape}, expected {(len(references), 1)}."
            )
        values = np.array(scores.values[:, 0], dtype=np.float64)
        values[list(scores.gated)] = np.nan
        self._columns.append(values)
        self.left_out += [g in scores.gated for g in range(len(references))]
        self.gated |= {references[g].clip_id: reason for g, reason in scores.gated.items()}
        lost = {g: reason for (g, _), reason in scores.missing.items() if g not in scores.gated}
        self.missing |= {references[g].clip_id: reason for g, reason in lost.items()}
        if detail and scores.measured is not None:
            self.measured += [row[0] for row in scores.measured]


def paired(before: HeldOut, after: HeldOut) -> dict[str, Estimate]:
    """Mean gain per dimension and in total, with the standard error of the per-scene difference.

    Raises PrismError when the two did not score the same scenes in the same order and dimensions.
    """
    if before.clip_ids != after.clip_ids or before.scenes.keys() != after.scenes.keys():
        raise PrismError("A paired comparison needs the same scenes, in the same order, scored in the same dimensions.")
    gains = {name: after.scenes[name] - before.scenes[name] for name in before.scenes}
    return {name: mean_estimate(values) for name, values in {**gains, "total": after.total - before.total}.items()}
