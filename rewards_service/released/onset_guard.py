"""What a learned judge of synchrony does not punish: sounds with an onset everywhere, and sounds with none at all.

Given a click train or broadband noise a predictor of offsets answers with its most likely class, which is "in sync".
Both are cheap to make for a policy, and cheap to hear: about 1 ms per sound.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rewards_service.temporal import TemporalScorer, onset_times, pick_onsets

APART = 2
"""Frames of 10 ms between onsets that count as two: trains of up to 50 per second are seen as such."""


@dataclass(frozen=True)
class OnsetGuard:
    """A factor in [0, 1] for a reward.

    per_s: onsets per second up to which nothing is lost; at twice as many everything is. Recorded clips of impacts,
    drums, speech and animals have 1 to 4, fast speech 8. prominence_db: where impacts are seen, a sound whose strongest
    onset is weaker than this loses in proportion; recorded clips have 7 or more, noise has 2. 0 turns either off.
    """

    per_s: float = 8.0
    prominence_db: float = 6.0

    def __call__(self, audio: Tensor, eventful: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
        """(B, S) sounds at 16 kHz on the CPU to (B,) factors and what was measured. eventful: (B,) impacts are seen."""
        scorer = TemporalScorer()
        strength = scorer.onset_strength(audio[:, None].expand(-1, 2, -1))
        times = onset_times(strength.shape[1]).numpy()
        seconds = audio.shape[1] / 16_000
        rates = torch.tensor(
            [len(pick_onsets(row, times, scorer.pick_db, APART)) / seconds for row in strength.numpy()]
        )
        strongest = strength.amax(1)
        factors = torch.ones(len(audio))
        if self.per_s:
            factors *= (2 - rates / self.per_s).clamp(0, 1)
        if self.prominence_db:
            factors[eventful] *= (strongest[eventful] / self.prominence_db).clamp_max(1)
        found = zip(rates.tolist(), strongest.tolist(), factors.tolist(), strict=True)
        return factors, [
            {"onsets_per_s": round(rate, 2), "strongest_onset_db": round(level, 1), "guard": round(factor, 3)}
            for rate, level, factor in found
        ]
