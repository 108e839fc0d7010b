"""Semantic reward by LAION-CLAP (arXiv 2211.06687) in its own package, to check the converted weights against."""

import importlib
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewards_service.environments import NUMPY_1, Environment
from rewards_service.errors import RewardError
from rewards_service.released import checkpoints, hub
from rewards_service.released.clap import ClapScorer
from rewards_service.released.laion_keys import AMODELS, POSITION_IDS, fused, is_original, patch_width

NAMES = ("roberta-base", "bert-base-uncased", "facebook/bart-base")
"""What the package loads by name at import or when it builds its model, whether it is needed or not."""


@dataclass(frozen=True)
class OriginalLaionClapScorer(ClapScorer):
    """See `ClapScorer`; windows of 10 s at 48 kHz, which the package fills up itself where a clip is shorter.

    weights: a released .pt, as it is: the package's loader wants `text_branch.embeddings.position_ids` in it. hub: a
    cache with roberta-base (the model too), and the tokenizers of bert-base-uncased and facebook/bart-base.
    """

    rate: ClassVar[int] = 48000
    window: ClassVar[int] = 10 * 48000
    environment: ClassVar[Environment] = Environment(
        "laion-clap",
        (
            *NUMPY_1,
            "laion-clap==1.1.7",
            "numpy==1.26.4",
            "librosa==0.11.0",
            "torchaudio==2.11.0",
            "torchlibrosa==0.1.0",
            "torchvision==0.28.0",
            "transformers==4.57.6",
            "webdataset==1.0.2",
        ),
        without=("wandb", "progressbar"),  # for its training scripts
    )

    @cached_property
    def model(self) -> Any:
        """The package's own CLAP_Module with these weights. Raises RewardError when a file is absent or wrong."""
        tensors = checkpoints.read(self.weights, "LAION-CLAP checkpoint")
        if not is_original(tensors) or POSITION_IDS not in tensors:
            raise RewardError(
                f"{self.weights} is not as released: the laion-clap package needs names such as "
                f"audio_branch.bn0.weight and {POSITION_IDS}. The scorer laion_clap reads other layouts."
            )
        width = patch_width(tensors)
        if width not in AMODELS:
            raise RewardError(f"{self.weights} has patches of width {width}; laion-clap has {AMODELS}.")
        hub.use(self.hub, NAMES)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RewardError("LAION-CLAP was asked for on cuda, and this process sees no GPU; set num_gpus or device.")
        from rewards_service.cpu_wheels import tolerate

        tolerate()
        package: Any = importlib.import_module("laion_clap")  # a module beside this one has the same name

        found = checkpoints.shapes(tensors)
        with redirect_stdout(StringIO()):
            made = package.CLAP_Module(fused(tensors), self.device, AMODELS[width])
            del tensors
            expected = checkpoints.shapes(made.model.state_dict())
            checkpoints.compare(expected, found, self.weights, may_have=re.escape(POSITION_IDS))
            made.load_ckpt(str(self.weights), verbose=False)
        return made.eval()

    def load(self) -> None:
        """Read the weights. Raises RewardError for what is missing or does not fit."""
        _ = self.model

    @torch.inference_mode()
    def embed_windows(self, sounds: Tensor) -> Tensor:
        """(B, S) mono sounds at 48 kHz, at most 10 s, to (B, 512) unit embeddings."""
        return torch.from_numpy(self.model.get_audio_embedding_from_data(sounds.numpy())).float()

    @torch.inference_mode()
    def embed_caption(self, caption: str) -> Tensor:
        """(512,) unit embedding of a text."""
        return torch.from_numpy(self.model.get_text_embedding([caption]))[0].float()

    def count(self, caption: str) -> int:
        """Tokens of a text, with the two around it."""
        return len(self.model.tokenize(caption)["input_ids"])
