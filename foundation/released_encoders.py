"""The released model's encoders together: from a stretch of a video and a text to the features it is conditioned on."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from foundation.release import Release
from media.frames import read_frames
from media.squares import cropped_square, padded_square

if TYPE_CHECKING:
    from foundation.synchformer import SynchformerVisual
    from foundation.t5gemma import T5Gemma
    from foundation.videoprism import VideoFeatures, VideoPrism

ENCODERS = ("videoprism", "t5gemma", "synchformer")
PREPARATION = 1
"""Raise it when frames or tokens are prepared in another way: features in a store then count as another encoder's."""

# Of a folder, what decides the features.
_DECIDING = ("config.json", "*.safetensors", "*.bin", "tokenizer*", "special_tokens_map.json", "*.model")


class ReleasedEncoders:
    """VideoPrism, Synchformer and T5-Gemma of a release; each is loaded when it is first needed.

    max_tokens: longer texts are cut, with a warning; whole when None. dtype: of the computation on the device; the
    features are float32. segments, texts: how many Synchformer segments (16 frames) and how many texts of one length
    are encoded at once.
    All methods raise CheckpointError when their encoder's files are missing or do not fit, and those that read a video
    the MediaError that fits.
    """

    def __init__(
        self,
        release: Release,
        device: torch.device | str = "cpu",
        max_tokens: int | None = None,
        dtype: torch.dtype = torch.float32,
        segments: int = 4,
        texts: int = 8,
    ):
        self.release, self.device, self.dtype = release, torch.device(device), dtype
        self.max_tokens, self.segments, self.texts = max_tokens, segments, texts

    def video(self, path: str | Path, start: float, seconds: float) -> np.ndarray:
        """(T, D) frame embeddings at 4 Hz, T = int(4 * seconds) but at least 1; the last frame fills a short file."""
        return self.video_and_global(path, start, seconds)[0]

    def global_video(self, path: str | Path, start: float, seconds: float) -> np.ndarray:
        """(D,) embedding of the whole stretch; official feature files have it, the released model does not use it."""
        return self.video_and_global(path, start, seconds)[1]

    def video_and_global(self, path: str | Path, start: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """What `video` and `global_video` give, computed together at the cost of either."""
        from foundation.videoprism import FPS

        frames = read_frames(path, FPS, start, seconds, partial(padded_square, size=self._videoprism.size))
        features: VideoFeatures = self._videoprism.features(frames)
        return features.frames.numpy(), features.clip.numpy()

    def sync(self, path: str | Path, start: float, seconds: float) -> np.ndarray:
        """(8 * segments, D): 8 vectors for each segment of 16 frames at 25 Hz; a segment starts every 8 frames.

        9 s make 27 segments and 216 vectors. Where the stretch is shorter than a segment (0.64 s), its last frame is
        repeated to fill one; otherwise frames after the last whole segment have no features of their own.
        """
        from foundation.synchformer import FPS

        frames = read_frames(path, FPS, start, seconds, partial(cropped_square, size=self._synchformer.size))
        return self._synchformer.features(frames, self.segments).numpy()

    def text(self, texts: Sequence[str]) -> list[np.ndarray]:
        """(L_i, D) for each text, L_i being its number of tokens; no text's features depend on the others."""
        return [features.numpy() for features in self._t5gemma.encode(texts, self.texts)]

    def identity(self, name: str) -> str:
        """An encoder ("videoprism", "t5gemma", "synchformer") by name and what decides its features, e.g. its weights.

        Weights are read once per process and file; equal files at other paths are the same encoder.
        Raises CheckpointError when the files are missing.
        """
        if name not in ENCODERS:
            raise ValueError(f"There is no encoder {name!r}; there are {', '.join(ENCODERS)}.")
        options = [str(PREPARATION), str(self.dtype)]
        if name == "t5gemma":
            options.append(f"max_tokens={self.max_tokens}")
        digest = hashlib.blake2b("|".join(options).encode(), digest_size=5)
        for file in _deciding(self._path(name)):
            state = file.stat()
            digest.update(file.name.encode() + _digest(str(file.resolve()), state.st_size, state.st_mtime_ns))
        return f"{name}-{digest.hexdigest()}"

    def release_memory(self) -> None:
        """Forget the loaded encoders; the next call loads again what it needs."""
        for name in ("_videoprism", "_t5gemma", "_synchformer"):
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def _videoprism(self) -> VideoPrism:
        from foundation.videoprism import VideoPrism

        return VideoPrism.load(self._path("videoprism"), self.device, self.dtype)

    @cached_property
    def _t5gemma(self) -> T5Gemma:
        from foundation.t5gemma import T5Gemma

        return T5Gemma.load(self._path("t5gemma"), self.device, self.dtype, self.max_tokens)

    @cached_property
    def _synchformer(self) -> SynchformerVisual:
        from foundation.synchformer import SynchformerVisual

        return SynchformerVisual.load(self._path("synchformer"), self.device).to(self.dtype)

    def _path(self, name: str) -> Path:
        self.release.require(name)
        return getattr(self.release, name)


def _deciding(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted({file for pattern in _DECIDING for file in path.glob(pattern) if file.is_file()})


@lru_cache(maxsize=256)
def _digest(path: str, size: int, changed: int) -> bytes:
    """Of a file's content; size and time of change are there to notice another content under the same path."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).digest()
