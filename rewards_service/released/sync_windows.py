"""From sounds and the clips they belong to, to Synchformer's logits for the clips' first and last windows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foundation import synchformer_audio as sound
from foundation.synchronisation import Synchformer, windows
from rewards_service.batch import Batch
from rewards_service.released.sync_view import View
from rewards_service.released.visual_tokens import VisualTokens
from rewards_service.scores import Reference
from rewards_service.temporal import OFFSETS_S
from settings import PrismError

SEGMENT_S, HOP_S = sound.SEGMENT / sound.RATE, sound.HOP / sound.RATE


@dataclass(frozen=True)
class Windows:
    """What the model says of B = G * N sounds, prompt-major.

    first, last: (B, 21) float64 logits of the windows at the clip's start and end, NaN where there are none.
    segments: how many of its clip's count, by prompt. missing, gated: prompts without logits, and why. groups: G.
    """

    first: Tensor
    last: Tensor
    segments: dict[int, int]
    missing: dict[int, str]
    gated: dict[int, str]
    groups: int


@dataclass(frozen=True)
class SyncWindows:
    """Asks a model about many sounds at once.

    view: which part of a clip counts. shortest_s: shorter clips are gated. batch: sounds at once; segments: of sound at
    once.
    """

    model: Synchformer
    tokens: VisualTokens
    view: View
    shortest_s: float
    batch: int = 16
    segments: int = 64

    def mono(self, batch: Batch) -> Tensor:
        """(B, S') float32 on the CPU at 16 kHz: what the model hears, resampled on its device."""
        parts = batch.audio.split(self.batch)
        return torch.cat([sound.mono(part.to(self.model.device), batch.sample_rate).cpu() for part in parts])

    def __call__(self, audio: Tensor, references: list[Reference], wanted: Tensor) -> Windows:
        """Logits of those (B, S') sounds at 16 kHz that are `wanted` (B,), for G references, G dividing B.

        Each clip is looked at once. One that cannot be seen is `missing` with the reason; nothing is raised.
        """
        members = len(audio) // len(references)
        gated = {g: why for g, r in enumerate(references) if (why := self._too_short(r, audio.shape[1] / sound.RATE))}
        asked = [g for g, any_wanted in enumerate(wanted.view(-1, members).any(1).tolist()) if any_wanted]
        visual, missing = self._seen(references, [g for g in asked if g not in gated])
        first, last = (torch.full((len(audio), len(OFFSETS_S)), torch.nan).double() for _ in range(2))
        if not visual:
            return Windows(first, last, {}, missing, gated, len(references))
        cut = sound.segments(self.view.sound(audio))
        counts = {g: min(len(tokens), cut.shape[1]) for g, tokens in visual.items()}
        rows = [int(row) for row in wanted.nonzero() if int(row) // members in visual]
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            owners = [row // members for row in part]
            places = [windows(counts[g], self.model.window) for g in owners]
            first[part], last[part] = self._logits([visual[g] for g in owners], cut[part], places)
        return Windows(first, last, counts, missing, gated, len(references))

    def _logits(
        self, visual: list[Tensor], cut: Tensor, places: list[tuple[list[int], list[int]]]
    ) -> tuple[Tensor, Tensor]:
        """(b, 21) of both windows; only segments that lie in one of them are heard, and each once."""
        used = [(row, k) for row, pair in enumerate(places) for k in sorted({*pair[0], *pair[1]})]
        rows, columns = (list(axis) for axis in zip(*used, strict=True))
        heard = self.model.audio_tokens(cut[rows, columns], self.segments)
        tokens = heard.new_zeros(*cut.shape[:2], *heard.shape[1:])
        tokens[rows, columns] = heard

        def window(which: int) -> Tensor:
            seen = torch.stack([visual[row][pair[which]] for row, pair in enumerate(places)])
            sounds = torch.stack([tokens[row, pair[which]] for row, pair in enumerate(places)])
            return self.model(seen, sounds).double().cpu()

        first = window(0)
        return first, first if all(pair[0] == pair[1] for pair in places) else window(1)

    def _seen(self, references: list[Reference], asked: list[int]) -> tuple[dict[int, Tensor], dict[int, str]]:
        """Visual tokens of prompts, or the reason why there are none."""
        visual: dict[int, Tensor] = {}
        missing: dict[int, str] = {}
        for g in asked:
            try:
                visual[g] = self.tokens.get(references[g])
            except PrismError as error:
                missing[g] = f"the picture cannot be seen: {error}"
        return visual, missing

    def _too_short(self, reference: Reference, heard_s: float) -> str:
        """Why a clip is gated; empty when it is not."""
        seconds, least = min(reference.seconds, heard_s), self.view.crop_s or max(self.shortest_s, SEGMENT_S)
        return (
            "" if seconds >= least - 1e-3 else f"the clip has {seconds:.2f} s; its sync is judged from {least:g} s on"
        )
