"""Semantic reward: does the sound sound like what the plan's semantic text says?"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import Batch, finish, prepare
from rewards_service.contrastive import ContrastiveEncoder
from rewards_service.scores import Reference, Scores

WEIGHTS = Path(__file__).parent.parent / "assets" / "semantic_encoder.safetensors"


@dataclass(frozen=True)
class SemanticScorer:
    """Cosine of the sound with the text, negative values counting 0, under a contrastive audio-text encoder.

    weights: encoder file, the shipped one by default. top: how many of the best known texts are listed in the details.
    A text without a word the encoder has learned is replaced by the known text the sound is closest to: the sound is
    then only asked to be like some thing rather than like noise.
    """

    weights: str | Path = WEIGHTS
    top: int = 3

    @cached_property
    def encoder(self) -> ContrastiveEncoder:
        """The encoder, read once. Raises RewardError when the file is not one."""
        return ContrastiveEncoder.load(self.weights)

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms against each reference's text."""
        encoder = self.encoder
        batch = prepare(waveforms, sample_rate, references, encoder.shape.rate)
        sounds = encoder.embed_audio(batch.audio, batch.sample_rate)
        texts = encoder.embed_text([r.text for r in references])
        values = (sounds * batch.expand(texts)).sum(1)
        told = torch.tensor([bool(encoder.known(r.text)) for r in references])
        if not told.all():
            closest = (sounds @ self._prototypes.T).amax(1)
            values = torch.where(batch.expand(told), values, closest)
        measured = self._details(batch, references, sounds, values) if detail else None
        return finish(batch, values, measured)

    @cached_property
    def _prototypes(self) -> Tensor:
        """(K, width) embeddings of the texts the encoder was trained with."""
        return self.encoder.embed_text(self.encoder.texts)

    def _details(
        self, batch: Batch, references: list[Reference], sounds: Tensor, values: Tensor
    ) -> list[dict[str, Any]]:
        best = (sounds @ self._prototypes.T).topk(min(self.top, len(self._prototypes)), dim=1)
        rows = []
        for index, (cosines, ids) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            text = references[index // batch.members].text
            known = self.encoder.known(text)
            rows.append(
                {
                    "basis": "the text's words" if known else "no known word in the text: closest known sound",
                    "text": text,
                    "known_words": known,
                    "unknown_words": self.encoder.unknown(text),
                    "similarity": round(float(values[index]), 4),
                    "closest": [
                        {"text": self.encoder.texts[i], "similarity": round(c, 4)}
                        for c, i in zip(cosines, ids, strict=True)
                    ],
                }
            )
        return rows
