"""Temporal reward by Synchformer (Iashin et al. 2024, arXiv:2401.16423), the model that PrismAudio trains on.

The picture's tokens are 97 % of the work and the same for every sound of a clip, so they are kept.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foundation.release import SYNCHFORMER, Release
from foundation.released_encoders import ReleasedEncoders
from foundation.synchronisation import Synchformer
from media.features import FeatureStore
from rewards_service import temporal
from rewards_service.batch import SILENCE_DB, Batch, finish, prepare
from rewards_service.errors import RewardConfigError, RewardError
from rewards_service.released.onset_guard import OnsetGuard
from rewards_service.released.sync_details import details
from rewards_service.released.sync_view import RELEASED, WHOLE, View
from rewards_service.released.sync_windows import SyncWindows
from rewards_service.released.visual_tokens import VisualTokens
from rewards_service.scores import Reference, Scores

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class SynchformerScorer:
    """1 - E|offset| / 2, the offset between picture and sound being in s; mean of the clip's first and last 4.8 s.

    weights: `synchformer_state_dict.pth`, a training checkpoint with the same under "model", or a release's folder.
    store: feature store (folder or URL) with visual tokens, such as condition the model. Only tokens of these weights
    are used; what is not there is computed from `Reference.uri`, and nothing is ever written.
    device, precision: of the model. cache_mb: visual tokens to remember; 9 s are 0.66 MB. batch: sounds at once;
    segments: of sound, visual_segments: of picture at once.
    shortest_s: shorter clips are gated. Clips below 4.8 s are repeated to fill a window; with the default, what is
    repeated is longer than the largest offset of 2 s.
    max_onsets_per_s, prominence_db: see `OnsetGuard`; 0 turns the one or the other off.

    official: the released reward and nothing else: the 14 segments in the middle of the first 5 s, seen through the
    middle of a larger picture, (2 - |likeliest offset|) / 4, no guard. Kept from our side: silence scores 0, and clips
    below 5 s are gated, where the released code fails and gives 0.
    """

    weights: str | Path = ""
    store: str | Path = ""
    device: str = "cpu"
    official: bool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    cache_mb: float = 1024.0
    batch: int = 16
    segments: int = 64
    visual_segments: int = 4
    shortest_s: float = 2.56
    max_onsets_per_s: float = 8.0
    prominence_db: float = 6.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RewardConfigError(f"The precision is one of {', '.join(PRECISIONS)}; got {self.precision!r}.")
        if min(self.batch, self.segments, self.visual_segments) < 1:
            raise RewardConfigError("batch, segments and visual_segments are at least 1.")
        if min(self.cache_mb, self.max_onsets_per_s, self.prominence_db) < 0:
            raise RewardConfigError("cache_mb, max_onsets_per_s and prominence_db are not negative.")

    def __getstate__(self) -> dict[str, Any]:
        """The options alone: what was loaded is loaded again elsewhere."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def load(self) -> None:
        """Read the weights and find the store. Raises RewardError, CheckpointError, FeatureError."""
        _ = self.model, self.tokens

    @cached_property
    def model(self) -> Synchformer:
        """The whole model. Raises RewardError without weights or GPU, CheckpointError for a file that does not fit."""
        if self.device != "cpu" and not torch.cuda.is_available():
            raise RewardError(
                f"Synchformer was asked for on {self.device}, and this process sees no GPU; set num_gpus."
            )
        model = Synchformer.load(self._file, self.device)
        if model.classes != len(temporal.OFFSETS_S):
            raise RewardError(f"{self._file} tells {model.classes} offsets apart; expected {len(temporal.OFFSETS_S)}.")
        return model.to(getattr(torch, self.precision))

    @cached_property
    def tokens(self) -> VisualTokens:
        """Visual tokens of clips."""
        # The condition's tokens are of other frames, and of another part of them, than the released reward's.
        store = FeatureStore(self.store) if str(self.store) and not self.official else None
        identities = self._identities() if store is not None else []
        return VisualTokens(self._see, int(self.cache_mb * 2**20), store, identities, self.model.tokens[0])

    @cached_property
    def windows(self) -> SyncWindows:
        """What asks the model."""
        return SyncWindows(self.model, self.tokens, self._view, self.shortest_s, self.batch, self.segments)

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms against the pictures that the references name."""
        batch = prepare(waveforms, sample_rate, references)
        audio = self.windows.mono(batch)
        # Channels that cancel each other are silence to the model.
        level_db = 20 * torch.log10(audio.square().mean(1).sqrt().clamp_min(1e-9))
        heard = batch.finite & ~batch.silent & (level_db >= SILENCE_DB)
        found = self.windows(audio, references, heard)
        if self.official:
            values = torch.from_numpy(temporal.official_reward(found.first))
            guards: dict[int, dict[str, float]] = {}
        else:
            factors, guards = self._guarded(batch, audio, heard, references)
            values = torch.from_numpy(temporal.reward(found.first, found.last)) * factors
        missing = {(g, n): reason for g, reason in found.missing.items() for n in range(batch.members)}
        measured = details(found, heard, guards, self._view, self.model.window) if detail else None
        return finish(batch, torch.where(heard, values, 0.0), measured, gated=found.gated, missing=missing)

    def _guarded(
        self, batch: Batch, audio: Tensor, heard: Tensor, references: list[Reference]
    ) -> tuple[Tensor, dict[int, dict[str, float]]]:
        rows = [int(row) for row in heard.nonzero()]
        factors = torch.ones(len(audio), dtype=torch.float64)
        if not rows:
            return factors, {}
        guard = OnsetGuard(self.max_onsets_per_s, self.prominence_db)
        eventful = torch.tensor([bool(references[row // batch.members].events) for row in rows])
        found, told = guard(audio[rows], eventful)
        factors[rows] = found.double()
        return factors, dict(zip(rows, told, strict=True))

    @property
    def _view(self) -> View:
        return RELEASED if self.official else WHOLE

    def _see(self, path: str, start: float, seconds: float) -> Tensor:
        size = self.model.vfeat_extractor.size
        return self.model.visual_tokens(self._view.picture(path, start, seconds, size), self.visual_segments)

    @cached_property
    def _file(self) -> Path:
        if not str(self.weights):
            raise RewardError("Synchformer needs its option weights: the path of synchformer_state_dict.pth.")
        path = Path(self.weights)
        return next((path / name for name in SYNCHFORMER if (path / name).is_file()), path)

    def _identities(self) -> list[str]:
        """Under which a store has tokens of these weights: made in this precision, or else in another."""
        release = Release(self._file.parent, self._file, synchformer=self._file)
        precisions = sorted(PRECISIONS, key=lambda name: name != self.precision)
        return [ReleasedEncoders(release, dtype=getattr(torch, p)).identity("synchformer") for p in precisions]
