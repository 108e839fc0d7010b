"""Temporal reward against the reference clip's own sound: do the onsets fall where the recorded ones do?

It needs no weights and no motion analysis, which on camera pictures misses impacts and invents others.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import finish, prepare
from rewards_service.reference_sound import Remembered, reference_sound
from rewards_service.scores import Reference, Scores
from rewards_service.temporal import RATE, TemporalScorer, onset_times, pick_onsets, smoothed

NO_SOUND, NO_ONSET = "the reference clip has no sound", "the reference clip's own sound has no onset"


@dataclass(frozen=True)
class OnsetScorer:
    """Cosine of the two smoothed onset strengths; an onset off by d scores exp(-d^2 / 4 w^2), w being tolerance_s.

    prominence_db: a sound whose strongest onset is weaker than this is marked down in proportion; a reference without
    one that strong says nothing about time and is gated, as one without sound is.
    """

    tolerance_s: float = 0.035
    prominence_db: float = 6.0

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms. References that cannot be read are missing scores."""
        batch = prepare(waveforms, sample_rate, references, RATE)
        strength = self._listener.onset_strength(batch.audio)
        own, missing = self._known.of(references, batch.members)
        frames = strength.shape[1]
        targets = torch.stack([_fitted(s, frames) if isinstance(s, Tensor) else torch.zeros(frames) for s in own])
        heard, wanted = smoothed(strength, self.tolerance_s), smoothed(targets, self.tolerance_s)
        likeness = torch.nn.functional.cosine_similarity(heard, batch.expand(wanted), dim=1, eps=1e-6)
        values = likeness * (strength.amax(1) / self.prominence_db).clamp_max(1.0)
        gated = {g: s for g, s in enumerate(own) if isinstance(s, str) and (g, 0) not in missing}
        measured = self._details(strength, batch.expand(targets)) if detail else None
        return finish(batch, values, measured, gated=gated, missing=missing)

    def own_onsets(self, reference: Reference) -> Tensor | str:
        """(F,) onset strength of a reference's own sound, or why it says nothing. Raises MediaError."""
        sound = reference_sound(reference, RATE)
        if sound is None:
            return NO_SOUND
        strength = self._listener.onset_strength(torch.from_numpy(sound)[None])[0]
        return strength if float(strength.amax()) >= self.prominence_db else NO_ONSET

    @cached_property
    def _listener(self) -> TemporalScorer:
        return TemporalScorer()

    @cached_property
    def _known(self) -> Remembered[Tensor | str]:
        return Remembered(self.own_onsets, NO_SOUND)

    def _details(self, strength: Tensor, targets: Tensor) -> list[dict[str, Any]]:
        times = onset_times(strength.shape[1]).numpy()
        least = self._listener.pick_db
        return [
            {
                "basis": "the reference clip's own sound",
                "onsets_s": [round(t, 3) for t in pick_onsets(heard, times, least)],
                "reference_onsets_s": [round(t, 3) for t in pick_onsets(wanted, times, least)],
            }
            for heard, wanted in zip(strength.numpy(), targets.numpy(), strict=True)
        ]


def _fitted(strength: Tensor, frames: int) -> Tensor:
    """Cut or padded: sounds may be a frame of 10 ms longer or shorter than their clip."""
    return torch.nn.functional.pad(strength[:frames], (0, max(0, frames - len(strength))))
