"""Semantic reward by LAION-CLAP (arXiv 2211.06687): the released weights in transformers' `ClapModel`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewards_service.errors import RewardError
from rewards_service.released import checkpoints, hub, windows
from rewards_service.released.clap import ClapScorer
from rewards_service.released.laion_keys import BUFFERS, architecture, converted
from rewards_service.released.log_mel import LogMel

TOKENIZER = "roberta-base"
CHECKPOINT = "LAION-CLAP checkpoint (music_speech_audioset_epoch_15_esc_89.98.pt, 630k-audioset-best.pt or another)"


def quantised(sounds: Tensor) -> Tensor:
    """What 16 bits leave of sounds, rounded towards zero, as the package does with every sound it is given."""
    return (sounds.clamp(-1, 1) * 32767).to(torch.int16).float() / 32767


@dataclass(frozen=True)
class LaionClapScorer(ClapScorer):
    """See `ClapScorer`; windows of 10 s at 48 kHz, shorter sounds repeated as often as they fit whole, then silence.

    weights: a released .pt, the same tensors as .safetensors under either layout's names, or a folder of transformers
    (config.json, model.safetensors). Size, fusion and text tower are read off the shapes. tokenizer: folder with
    roberta-base's tokenizer; without it that of the weights' folder, or of the hub.

    What the package does with clips longer than 10 s, a random stretch or the fusion of three random ones, is never
    needed: every window is short enough. A fused model thus always takes the path of short clips, which transformers'
    own feature extractor does not (it calls one clip of a batch long, at random, when none is).
    """

    tokenizer: str | Path = ""

    rate: ClassVar[int] = 48000
    window: ClassVar[int] = 10 * 48000

    @cached_property
    def model(self) -> Any:
        """The `ClapModel`. Raises RewardError when a file is absent or does not fit, naming every wrong tensor."""
        from transformers import ClapConfig, ClapModel

        path = Path(self.weights)
        if path.is_dir():
            config = ClapConfig.from_pretrained(_whole(path), local_files_only=True)
            tensors = checkpoints.read(path / "model.safetensors", CHECKPOINT)
        else:
            found = checkpoints.read(self.weights, CHECKPOINT)
            tensors = converted(found)
            config = ClapConfig.from_dict(architecture(tensors))
        made: Any = ClapModel(config)
        checkpoints.compare(checkpoints.shapes(made.state_dict()), checkpoints.shapes(tensors), path, may_lack=BUFFERS)
        made.load_state_dict(tensors, strict=False)
        return made.eval().requires_grad_(False).to(self.device)

    @cached_property
    def words(self) -> Any:
        """The tokenizer. Raises RewardError when it is nowhere."""
        from transformers import RobertaTokenizer

        if self.tokenizer:
            folder = Path(self.tokenizer)
        elif Path(self.weights).is_dir():
            folder = Path(self.weights)
        else:
            folder = hub.snapshot(self.hub, TOKENIZER) if self.hub else TOKENIZER
        try:
            return RobertaTokenizer.from_pretrained(folder, local_files_only=folder != TOKENIZER)
        except (OSError, ValueError, TypeError) as error:
            raise RewardError(f"There is no {TOKENIZER} tokenizer in {folder}: {error}") from error

    @cached_property
    def spectra(self) -> LogMel:
        """Fused models were trained on torchaudio's filters, the others on librosa's."""
        return LogMel(scale="htk" if self.model.config.audio_config.enable_fusion else "slaney")

    def load(self) -> None:
        """Read weights and tokenizer. Raises RewardError for what is missing or does not fit."""
        _ = self.model, self.words

    @torch.inference_mode()
    def embed_windows(self, sounds: Tensor) -> Tensor:
        """(B, S) mono sounds at 48 kHz, at most 10 s, to (B, 512) unit embeddings."""
        filled = windows.repeated(quantised(sounds.to(self.device)), self.window, whole=True)
        features = self.spectra(filled)[:, None]
        short = torch.zeros(len(features), 1, dtype=torch.bool, device=self.device)
        return self.model.get_audio_features(input_features=features, is_longer=short).pooler_output.float().cpu()

    @torch.inference_mode()
    def embed_caption(self, caption: str) -> Tensor:
        """(512,) unit embedding of a text."""
        tokens = self.words(caption, return_tensors="pt").to(self.device)
        found = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        return found.pooler_output[0].float().cpu()

    def count(self, caption: str) -> int:
        """Tokens of a text, with the two around it."""
        return len(self.words(caption)["input_ids"])


def _whole(folder: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise RewardError(f"{folder} is no folder of a transformers ClapModel: {name} is missing.")
    return folder
