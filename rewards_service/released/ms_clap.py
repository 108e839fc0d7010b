"""Semantic reward by MS-CLAP 2023 (`msclap`, arXiv 2309.05767), the model that PrismAudio trains on."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewards_service import official
from rewards_service.batch import finish, prepare, resample
from rewards_service.environments import NUMPY_1, Environment
from rewards_service.errors import RewardError
from rewards_service.released import checkpoints, hub, windows
from rewards_service.released.clap import ClapScorer
from rewards_service.scores import Reference, Scores

VERSION = "2023"
END = " <|endoftext|>"
"""What the package puts after every text."""
POSITIONS = 1024
"""Most tokens that GPT-2 reads."""
# Masks that transformers before 4.31 stored with GPT-2; constants.
_MASKS = r"caption_encoder\.base\.h\.\d+\.attn\.(masked_)?bias"


def official_reward(audio: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """exp(logit_scale) * cosine / 80 of (B, D) audio and text embeddings of any length: the released reward.

    FunAudioLLM/ThinkSound, branch prismaudio, grpo/fast_grpo/reward_ms_clap.py over msclap's compute_similarity.
    """
    return torch.from_numpy(official.ms_clap(torch.cosine_similarity(audio, text, dim=-1).numpy(), logit_scale))


@dataclass(frozen=True)
class MsClapScorer(ClapScorer):
    """See `ClapScorer`; windows of 7 s at 44.1 kHz, shorter sounds repeated, as the package does with files.

    weights: CLAP_weights_2023.pth. hub: a cache with gpt2, which the package builds the text encoder from.

    official: the released reward and nothing else: the mean of both channels at its own level through the package's
    forward pass (above 7.43 s that is windows of 5 s from the start every 2.5 s, so that of 8 or 9 s nothing after
    7.5 s is heard), the whole plan as it was written, exp(logit_scale) * cosine / 80, which is not limited to [0, 1].
    Kept from our side: 44.1 kHz, silence scores 0, and a plan longer than GPT-2 reads is a missing score.
    """

    official: bool = False

    rate: ClassVar[int] = 44100
    window: ClassVar[int] = 7 * 44100
    # 1 / 0.003, the inverse of the temperature in the package's configuration, over 80.
    bounds: ClassVar[tuple[float, float]] = (-4.2, 4.2)
    environment: ClassVar[Environment] = Environment(
        "msclap",
        (
            *NUMPY_1,
            "msclap==1.3.4",
            "numpy==1.26.4",
            "librosa==0.10.2.post1",
            "torchaudio==2.11.0",
            "torchlibrosa==0.1.0",
            "transformers==4.57.6",
        ),
    )

    @cached_property
    def model(self) -> Any:
        """The package's own CLAP with these weights. Raises RewardError when a file is absent or does not fit."""
        found = checkpoints.shapes(checkpoints.read(self.weights, "MS-CLAP 2023 checkpoint (CLAP_weights_2023.pth)"))
        hub.use(self.hub, ("gpt2",))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RewardError("MS-CLAP was asked for on cuda, and this process sees no GPU; set num_gpus or device.")
        from rewards_service.cpu_wheels import tolerate

        tolerate()
        from msclap import CLAP  # pyright: ignore[reportMissingImports]

        try:
            with redirect_stdout(StringIO()):
                made = CLAP(model_fp=str(self.weights), version=VERSION, use_cuda=self.device == "cuda")
        except (RuntimeError, KeyError) as error:
            raise RewardError(f"msclap cannot load {self.weights}: {error}") from error
        # The package loads what fits and says nothing of the rest.
        checkpoints.compare(checkpoints.shapes(made.clap.state_dict()), found, self.weights, may_have=_MASKS)
        return made

    def load(self) -> None:
        """Read the weights. Raises RewardError for what is missing or does not fit."""
        _ = self.model

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms against each reference's text; prompts without a text are gated."""
        return (self._official if self.official else super().score)(waveforms, sample_rate, references, detail)

    def embed_windows(self, sounds: Tensor) -> Tensor:
        """(B, S) mono sounds at 44.1 kHz, at most 7 s, to (B, 1024) embeddings."""
        return self.forward(windows.repeated(sounds, self.window))

    def embed_caption(self, caption: str) -> Tensor:
        """(1024,) unit embedding of a text."""
        return torch.nn.functional.normalize(self.model.get_text_embeddings([caption])[0].float().cpu(), dim=-1)

    def count(self, caption: str) -> int:
        """Tokens of a text and its end."""
        return len(self.model.tokenizer(caption + END)["input_ids"])

    def forward(self, mono: Tensor) -> Tensor:
        """(B, S) sounds of any length to (B, 1024) embeddings, by the package's own path."""
        return self.model._get_audio_embeddings(mono[:, None].to(self.device)).float().cpu()

    def _official(self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool) -> Scores:
        batch = prepare(waveforms, sample_rate, references)
        mono = batch.audio.mean(1)
        if batch.sample_rate != self.rate:
            mono = resample(mono[:, None], batch.sample_rate, self.rate)[:, 0]
        plans = [reference.plan for reference in references]
        lengths = [self.count(plan) for plan in plans]
        gated = {g: "there is no plan to compare with" for g, plan in enumerate(plans) if not plan.strip()}
        missing = {
            (g, n): f"the plan has {length} tokens, GPT-2 reads {POSITIONS}"
            for g, length in enumerate(lengths)
            if length > POSITIONS
            for n in range(batch.members)
        }
        sounds = torch.cat([self.forward(part) for part in mono.split(self.per_pass)])
        nothing = sounds.new_zeros(sounds.shape[-1])
        usable = [g not in gated and (g, 0) not in missing for g in range(batch.groups)]
        texts = [self.text_embedding(plan) if usable[g] else nothing for g, plan in enumerate(plans)]
        values = official_reward(sounds, batch.expand(torch.stack(texts)), float(self.model.clap.logit_scale))
        basis = "exp(logit_scale) * cosine / 80 of the raw mono waveform with the whole plan"
        measured = [{"basis": basis, "text": plans[i // batch.members]} for i in range(len(mono))] if detail else None
        return finish(batch, values, measured, self.bounds, silence=0.0, gated=gated, missing=missing)
