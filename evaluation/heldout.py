"""Scores of a model on scenes it never saw, with everything a paired comparison needs."""

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

    clip_ids: the scenes, in order. scenes: dimension -> (B,) scores, NaN where missing.
    total: (B,) unweighted mean over dimensions, NaN when any of them is missing.
    missing: dimension -> {clip id: reason}. measured: dimension -> what the scorer found per scene, if asked for.
    waveforms: (2, S) each, if asked for; one (B, 2, S) array where they are equally long. watched: dimension -> (B,)
    independent measures of these sounds, if asked for.
    """

    clip_ids: tuple[str, ...]
    scenes: dict[str, np.ndarray]
    total: np.ndarray
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    measured: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    waveforms: Sequence[np.ndarray] | np.ndarray | None = None
    watched: dict[str, np.ndarray] = field(default_factory=dict)

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

    def _columns(self) -> dict[str, np.ndarray]:
        return {**self.scenes, "total": self.total}


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
) -> HeldOut:
    """Generate one sound per prompt and score it in every dimension.

    generate: B prompts to (B, 2, S) float32 at `sample_rate` Hz. It owns noise and weights: use the same noise in every
    evaluation that is to be compared. watch: (B, 2, S) sounds and their prompts to {dimension: (B,)} measures.
    Raises PrismError when nothing is given, counts disagree, or `generate` returns another shape.
    """
    if not prompts or len(prompts) != len(references):
        raise PrismError(
            f"Held-out evaluation needs prompts and one reference for each, "
            f"got {len(prompts)} prompts and {len(references)} references."
        )
    if not scorers:
        raise PrismError("Held-out evaluation was given no scorer; name at least one dimension.")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    missing: dict[str, dict[str, str]] = {name: {} for name in scorers}
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in scorers}
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
        for name, scorer in scorers.items():
            scores = scorer.score(waveforms[:, None], sample_rate, chosen, detail)
            if scores.values.shape != (len(chosen), 1):
                raise PrismError(f"Scorer {name} returned shape {scores.values.shape}, expected {(len(chosen), 1)}.")
            columns[name].append(np.asarray(scores.values[:, 0], dtype=np.float64))
            missing[name] |= {chosen[g].clip_id: reason for (g, _), reason in scores.missing.items()}
            if detail and scores.measured is not None:
                measured[name] += [row[0] for row in scores.measured]
    scenes = {name: np.concatenate(parts) for name, parts in columns.items()}
    return HeldOut(
        clip_ids=tuple(r.clip_id for r in references),
        scenes=scenes,
        total=np.mean(list(scenes.values()), axis=0),
        missing={name: reasons for name, reasons in missing.items() if reasons},
        measured=measured if detail else {},
        waveforms=np.concatenate(kept) if kept else None,
        watched={name: np.concatenate(parts) for name, parts in watched.items()},
    )


def paired(before: HeldOut, after: HeldOut) -> dict[str, Estimate]:
    """Mean gain per dimension and in total, with the standard error of the per-scene difference.

    Raises PrismError when the two did not score the same scenes in the same order and dimensions.
    """
    if before.clip_ids != after.clip_ids or before.scenes.keys() != after.scenes.keys():
        raise PrismError("A paired comparison needs the same scenes, in the same order, scored in the same dimensions.")
    gains = {name: after.scenes[name] - before.scenes[name] for name in before.scenes}
    return {name: mean_estimate(values) for name, values in {**gains, "total": after.total - before.total}.items()}
