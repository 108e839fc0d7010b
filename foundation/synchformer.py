"""Synchformer's files and its visual features: from frames at 25 Hz to about 24 vectors per second.

Source: v-iashin/Synchformer model/sync_model.py, hkchengrex/av-benchmark av_bench/synchformer (Iashin et al. 2024,
arXiv:2401.16423). A file holds the whole synchronisation model; this reads the tower under `vfeat_extractor.`.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foundation.errors import CheckpointError
from foundation.flat import load_strict, require_finite
from foundation.motionformer import MotionFormer

FPS = 25
STRIDE = 8
HEAD_DIM = 64
VISUAL = "vfeat_extractor."


class SynchformerVisual(MotionFormer):
    """The visual tower with what it needs to read a whole clip."""

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], heads: int | None = None, source: str = "the file"
    ) -> "SynchformerVisual":
        """A tower of the tensors' own dimensions, in evaluation mode.

        tensors: as `read` gives them; names outside `vfeat_extractor.` are ignored. heads: cannot be read from the
        shapes; when None, one per 64 channels, which is the released model's 12 of 768.
        Raises CheckpointError: no visual tower, heads that do not divide the width, keys or shapes that do not fit.
        """
        own = tower(tensors, VISUAL, source)
        model = cls.shaped(own, heads, source)
        load_strict(model, own, source)
        return model.eval().requires_grad_(False)

    @classmethod
    def shaped(
        cls, own: Mapping[str, Tensor], heads: int | None = None, source: str = "the file"
    ) -> "SynchformerVisual":
        """A tower on the meta device for tensors without their prefix. Raises CheckpointError as `of`."""
        needed = ("cls_token", "pos_embed", "temp_embed", "patch_embed_3d.proj.weight", "blocks.0.mlp.fc1.weight")
        if missing := [VISUAL + name for name in needed if name not in own]:
            raise CheckpointError(f"{source} has no {', '.join(missing)}; expected the full Synchformer state dict.")
        width = own["cls_token"].shape[-1]
        hidden = own["blocks.0.mlp.fc1.weight"].shape[0]
        _, _, tubelet, patch, _ = own["patch_embed_3d.proj.weight"].shape
        with torch.device("meta"):
            return cls(
                width=width,
                depth=count(own, "blocks."),
                heads=heads or heads_of(width, source),
                hidden=hidden,
                places=own["pos_embed"].shape[1] - 1,
                times=own["temp_embed"].shape[1],
                patch=patch,
                tubelet=tubelet,
            )

    @classmethod
    def load(
        cls, path: str | Path, device: torch.device | str = "cpu", heads: int | None = None
    ) -> "SynchformerVisual":
        """The visual tower of `synchformer_state_dict.pth`, or of the same as .safetensors. Raises as `read`, `of`."""
        return cls.of(read(path), heads, str(path)).to(device)

    def official_state(self) -> dict[str, Tensor]:
        """The parameters under the names of the released file."""
        return {VISUAL + name: tensor for name, tensor in self.state_dict().items()}

    def segments(self, frames: int) -> int:
        """How many segments start every 8 frames and end within `frames`."""
        return max(0, (frames - self.frames) // STRIDE + 1)

    @torch.no_grad()
    def features(self, frames: np.ndarray, batch: int = 4) -> Tensor:
        """Frames (T, size, size, 3) uint8 at 25 fps to (times * segments, width) float32 on the CPU, in order.

        Segments of 16 frames start every 8; frames after the last whole segment are not used. A clip shorter than one
        segment is filled up with its last frame. batch: segments at once, which bounds the memory.
        """
        if len(frames) < self.frames:
            frames = np.concatenate([frames, np.repeat(frames[-1:], self.frames - len(frames), axis=0)])
        parameter = self.cls_token
        starts = [STRIDE * i for i in range(self.segments(len(frames)))]
        parts = []
        for first in range(0, len(starts), batch):
            group = np.stack([frames[s : s + self.frames] for s in starts[first : first + batch]])
            pixels = torch.from_numpy(group).to(parameter.device).permute(0, 1, 4, 2, 3)
            parts.append(self(normalise(pixels).to(parameter.dtype)).flatten(0, 1).float().cpu())
        return torch.cat(parts)


def normalise(pixels: Tensor) -> Tensor:
    """0..255 to [-1, 1]: mean and deviation 0.5 in every channel."""
    return pixels.float() / 127.5 - 1


def read(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a Synchformer file: a flat state dict, a training checkpoint with one under `model`, safetensors.

    Raises CheckpointError: no such file, damaged, of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No Synchformer file at {path}; expected synchformer_state_dict.pth or .safetensors.")
    try:
        content: Any
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            # Only torch's zip layout can be mapped; older files are read whole.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, or is no checkpoint; expected a state dict of tensors alone."
        ) from error
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict.")
    content = content["model"] if isinstance(content.get("model"), dict) else content
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def tower(tensors: Mapping[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it, in float32. Raises CheckpointError: there are none, NaN."""
    own = {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}
    require_finite(own, f"Refusing to load {source}")
    if not own:
        raise CheckpointError(
            f"{source} holds nothing under {prefix}*; expected the full Synchformer state dict, found "
            f"{', '.join(sorted(tensors)[:3]) or 'no tensors'}."
        )
    return own


def count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered layers there are under a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def heads_of(width: int, source: str) -> int:
    """Heads of 64 channels, as everywhere in Synchformer's towers. Raises CheckpointError when that leaves a rest."""
    if width % HEAD_DIM:
        raise CheckpointError(f"{source} is {width} wide, no multiple of {HEAD_DIM}; say how many heads it has.")
    return width // HEAD_DIM
