"""What the audio-text scorers share: which text, which sound, and how their embeddings become a score."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import SILENCE_DB, Batch, finish, prepare, resample
from rewards_service.errors import RewardConfigError
from rewards_service.released import windows
from rewards_service.released.captions import Text, chosen, clean, fit
from rewards_service.scores import Reference, Scores

CACHED_TEXTS = 4096


@dataclass(frozen=True)
class ClapScorer(ABC):
    """Cosine of a sound with a text under a contrastive audio-text model, negative values counting 0.

    weights: the checkpoint. hub: a local Hugging Face cache with what the package asks for by name; the machine's own,
    and the network, when empty. text: the semantic part of the plan or the whole plan. device: "cpu" or "cuda".
    per_pass: windows per forward pass, which bounds the memory.

    Both channels are mixed down and brought to one level (`windows.levelled`), so that loudness earns nothing. All of
    a clip is heard: as few windows of the model's training length as cover it, whose embeddings are averaged. What
    cancels itself in the mix is silence to these models, and scored as such. The score lies in [0, 1] and not [-1, 1]:
    a cosine below 0 says that the sound has nothing of the text, how far below says nothing, and silence must be no
    better than any sound, nor so far below them that it alone would set the spread of a group.
    """

    weights: str | Path = ""
    hub: str | Path = ""
    text: Text = "semantic"
    device: str = "cpu"
    per_pass: int = 16

    rate: ClassVar[int]
    """Hz."""
    window: ClassVar[int]
    """Samples that the model hears at once."""
    tokens: ClassVar[int] = 77
    """Most tokens of a text, with those at its ends."""

    def __post_init__(self) -> None:
        if self.text not in ("semantic", "plan"):
            raise RewardConfigError(f"The text to compare with is semantic or plan; got {self.text!r}.")
        if self.device not in ("cpu", "cuda"):
            raise RewardConfigError(f"The device is cpu or cuda; got {self.device!r}.")
        if self.per_pass < 1:
            raise RewardConfigError(f"per_pass is at least 1; got {self.per_pass}.")

    @abstractmethod
    def load(self) -> None:
        """Read the weights. Raises RewardError for what is missing or does not fit."""

    @abstractmethod
    def embed_windows(self, sounds: Tensor) -> Tensor:
        """(B, S) mono sounds at `rate`, S at most `window`, to (B, D) embeddings on the CPU."""

    @abstractmethod
    def embed_caption(self, caption: str) -> Tensor:
        """(D,) unit embedding of a clean text of at most `tokens` tokens, on the CPU."""

    @abstractmethod
    def count(self, caption: str) -> int:
        """Tokens of a text, with those at its ends."""

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms against each reference's text; prompts without a text are gated."""
        batch = prepare(waveforms, sample_rate, references)
        batch, mono = mixed(batch, self.rate)
        captions = [self.caption(chosen(reference, self.text)) for reference in references]
        gated = {g: f"there is no {self.text} text to compare with" for g, text in enumerate(captions) if not text}
        sounds = self.embed_sounds(mono)
        texts = torch.stack([self.text_embedding(c) if c else torch.zeros(sounds.shape[-1]) for c in captions])
        expanded = batch.expand(texts)
        values = (windows.pooled(sounds) * expanded).sum(-1)
        measured = None
        if detail:
            each = torch.einsum("bnd,bd->bn", torch.nn.functional.normalize(sounds, dim=-1), expanded)
            measured = self._details(batch, captions, values, each, mono.shape[-1])
        return finish(batch, values, measured, gated=gated)

    def caption(self, text: str) -> str:
        """The part of a text that the model is asked about: clean, and its beginning where it is too long."""
        text = clean(text)
        return fit(text, self.count, self.tokens) if text else ""

    def embed_sounds(self, mono: Tensor) -> Tensor:
        """(B, S) mono sounds at `rate` of any length and level to (B, n, D) embeddings of their n windows."""
        pieces = windows.cut(windows.levelled(mono), self.window)
        flat = pieces.flatten(0, 1)
        found = torch.cat([self.embed_windows(part) for part in flat.split(self.per_pass)])
        return found.unflatten(0, pieces.shape[:2])

    @cached_property
    def text_embedding(self) -> Callable[[str], Tensor]:
        """`embed_caption`, computed once for each of the last 4096 captions and always by itself."""
        return lru_cache(CACHED_TEXTS)(self.embed_caption)

    def _details(
        self, batch: Batch, captions: list[str], values: Tensor, each: Tensor, samples: int
    ) -> list[dict[str, Any]]:
        at = [round(start / self.rate, 3) for start in windows.starts(samples, self.window)]
        return [
            {
                "basis": f"cosine of the mean of {len(at)} windows of {self.window / self.rate:g} s with the text",
                "text": captions[index // batch.members],
                "similarity": round(float(values[index]), 5),
                "windows": [{"start_s": s, "similarity": round(c, 5)} for s, c in zip(at, cosines, strict=True)],
            }
            for index, cosines in enumerate(each.tolist())
        ]


def mixed(batch: Batch, rate: int) -> tuple[Batch, Tensor]:
    """A batch, silent also where its channels cancel each other, and its (B, S) mean of both channels at `rate`."""
    mono = batch.audio.mean(1)
    rms_db = 20 * torch.log10(mono.square().mean(1).sqrt().clamp_min(1e-9))
    batch = replace(batch, silent=batch.silent | (batch.finite & (rms_db < SILENCE_DB)))
    if rate != batch.sample_rate:
        mono = resample(mono[:, None], batch.sample_rate, rate)[:, 0]
    return batch, mono
