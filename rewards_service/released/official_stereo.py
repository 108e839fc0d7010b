"""The spatial reward of the released PrismAudio code, as far as it measures anything."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import finish, prepare
from rewards_service.official import itd
from rewards_service.reference_sound import Remembered, reference_sound
from rewards_service.released.stereo import ImageScorer, StereoScorer
from rewards_service.scores import Reference, Scores
from rewards_service.stereo.delays import official_delay_ms
from rewards_service.stereo.image import RATE
from rewards_service.stereo.target import refusal


@dataclass(frozen=True)
class OfficialStereoScorer:
    """-2.5 d_gcc^2: of the original's two terms the one without a network, which has random weights there.

    d_gcc is the difference to the reference of the mean delay in ms (`stereo.delays.official_delay_ms`), in which
    movement does not show. gate: leave out mono references, which the original does not; mono is the best answer
    to them. Silence has the lowest score. Source: FunAudioLLM/ThinkSound grpo/fast_grpo/reward_itd.py.
    """

    bounds: ClassVar[tuple[float, float]] = (-22.5, 0.0)
    gate: bool = True
    least_side_db: float = -30.0
    device: str = "cpu"

    @torch.inference_mode()
    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms by their first 6.03 s. References without sound are gated."""
        batch = prepare(waveforms, sample_rate, references, RATE)
        own, missing = self._known.of(references, batch.members)
        gated = {g: found for g, found in enumerate(own) if isinstance(found, str) and (g, 0) not in missing}
        blank = np.zeros(2)
        wanted = np.stack([blank if isinstance(found, str) else found for found in own]).repeat(batch.members, 0)
        heard = self.delays(batch.audio.to(self.device))
        values = torch.from_numpy(itd(heard[:, 1], wanted[:, 1], heard[:, 0], wanted[:, 0]))
        measured = None
        if detail:
            names = ("gcc_ms", "crw_ms", "reference_gcc_ms", "reference_crw_ms")
            rows = np.round(np.concatenate([heard, wanted], axis=1), 4).tolist()
            basis = "mean delay of the reference clip's own sound"
            measured = [{"basis": basis, **dict(zip(names, row, strict=True))} for row in rows]
        return finish(batch, values, measured, self.bounds, gated=gated, missing=missing)

    def delays(self, audio: Tensor) -> np.ndarray:
        """(B, 2, S) at 16 kHz to (B, 2) mean delays in ms, by GCC-PHAT and by the network; without one that is 0."""
        found = official_delay_ms(audio).cpu().numpy()
        return np.stack([found, np.zeros_like(found)], axis=1)

    def listener(self) -> ImageScorer:
        """What decides which references are mono."""
        return StereoScorer(least_side_db=self.least_side_db)

    @cached_property
    def _known(self) -> Remembered[np.ndarray | str]:
        return Remembered(self._own, "the reference clip cannot be read")

    def _own(self, reference: Reference) -> np.ndarray | str:
        """(2,) delays, or why there are none."""
        sound = reference_sound(reference, RATE)
        if sound is None:
            return "the reference clip has no sound"
        audio = torch.from_numpy(sound)[None]
        listener = self.listener()
        image = listener.listen(audio)
        refused = refusal(image, listener.trust(image), self.least_side_db) if self.gate else None
        return refused or self.delays(audio.to(self.device))[0]
