"""The whole of Synchformer: how far a sound is ahead of, or behind, its picture, for windows of 4.8 s.

Sources: v-iashin/Synchformer model/sync_model.py, hkchengrex/av-benchmark av_bench/synchformer/synchformer.py (Iashin
et al. 2024, arXiv:2401.16423). Parameters carry the released names, so `state_dict()` is the released file's.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from foundation import synchformer_audio as sound
from foundation.errors import CheckpointError
from foundation.flat import load_strict, require_finite
from foundation.spectrogram_transformer import AUDIO, SpectrogramTransformer
from foundation.synchformer import VISUAL, SynchformerVisual, read
from foundation.synchformer_head import SyncHead


class Synchformer(nn.Module):
    """The two towers and the head in one, as in `synchformer_state_dict.pth`.

    Tokens of the picture depend on nothing else, so they can be kept; all S segments of 0.64 s start every 0.32 s, and
    the head takes a window of 14 of them.
    """

    def __init__(
        self,
        visual: SynchformerVisual | None = None,
        audio: SpectrogramTransformer | None = None,
        head: SyncHead | None = None,
    ):
        """The released dimensions (237.5 M parameters) where a part is not given."""
        super().__init__()
        head = head or SyncHead()
        self.vfeat_extractor = visual or SynchformerVisual()
        self.afeat_extractor = audio or SpectrogramTransformer()
        self.vproj, self.aproj, self.transformer = head.vproj, head.aproj, head.transformer

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], heads: int | None = None, head_heads: int = 8, source: str = "the file"
    ) -> "Synchformer":
        """A frozen model of the tensors' own dimensions, in evaluation mode.

        heads: of the towers, one per 64 channels when None; head_heads: of the head; neither is told by the shapes.
        Raises CheckpointError: a part is not there, keys are missing or unexpected (all are named), NaN, or the head
        was made for other numbers of tokens than the towers give.
        """
        model = cls(
            SynchformerVisual.shaped(_without(tensors, VISUAL), heads, source),
            SpectrogramTransformer.shaped(_without(tensors, AUDIO), heads, source),
            SyncHead.shaped(tensors, head_heads, source),
        )
        load_strict(model, tensors, source)
        require_finite(tensors, f"Refusing to load {source}")
        tokens, positions = model.tokens, model.transformer.pos_emb_cfg["pos_emb"].shape[1]
        if positions <= 2 or (positions - 2) % sum(tokens):
            raise CheckpointError(
                f"{source} has a head with {positions} positions; expected 2 + a multiple of {sum(tokens)}, which is "
                f"what the towers give a segment ({tokens[0]} of the picture, {tokens[1]} of the sound)."
            )
        return model.eval().requires_grad_(False)

    @classmethod
    def load(
        cls, path: str | Path, device: torch.device | str = "cpu", heads: int | None = None, head_heads: int = 8
    ) -> "Synchformer":
        """The model of one file (`foundation.synchformer.read`). Raises CheckpointError as `read` and `of`."""
        return cls.of(read(path), heads, head_heads, str(path)).to(device)

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of a segment: of its picture and of its sound; 8 and 6 in the released model."""
        return self.vfeat_extractor.times, self.afeat_extractor.columns(sound.FRAMES)

    @property
    def window(self) -> int:
        """Segments that the head takes at once: 14 (4.8 s) in the released model."""
        return (self.transformer.pos_emb_cfg["pos_emb"].shape[1] - 2) // sum(self.tokens)

    @property
    def classes(self) -> int:
        """Number of offsets that are told apart, evenly from -2 to 2 s; 21 in the released model."""
        return self.transformer.off_head.out_features

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.vproj.weight.device

    def visual_tokens(self, frames: np.ndarray, batch: int = 4) -> Tensor:
        """Frames (T, 224, 224, 3) uint8 at 25 fps to (S, 8, width) float32 on the CPU, `batch` segments at once."""
        return self.vfeat_extractor.features(frames, batch).unflatten(0, (-1, self.vfeat_extractor.times))

    @torch.inference_mode()
    def audio_tokens(self, segments: Tensor, batch: int = 64) -> Tensor:
        """Segments (..., 10240) of sound at 16 kHz, on any device, to (..., 6, width) float32 on the model's."""
        flat = segments.reshape(-1, segments.shape[-1])
        dtype = self.aproj.weight.dtype
        parts = [
            self.afeat_extractor(sound.log_mel(group.to(self.device, torch.float32)).to(dtype)).float()
            for group in flat.split(batch)
        ]
        return torch.cat(parts).unflatten(0, segments.shape[:-1])

    @torch.inference_mode()
    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Windows of tokens (B, 14, 8, width) and (B, 14, 6, width) to (B, classes) float32 logits."""
        visual, audio = (x.to(self.device, self.vproj.weight.dtype).flatten(1, 2) for x in (visual, audio))
        return self.transformer(self.vproj(visual), self.aproj(audio)).float()


def windows(segments: int, window: int = 14) -> tuple[list[int], list[int]]:
    """Which of a clip's segments are in its first and in its last window.

    A clip with fewer is repeated from its start in both: picture and sound begin again together, so every pair of
    segments keeps its offset. (Holding the last picture over silence would show a common end in every sound, and
    repeating the last segment alone makes a rhythm whose offset is ambiguous.) Raises ValueError for none.
    """
    if segments < 1:
        raise ValueError("A clip without a whole segment has no windows.")
    if segments < window:
        filled = [i % segments for i in range(window)]
        return filled, filled
    return list(range(window)), list(range(segments - window, segments))


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
