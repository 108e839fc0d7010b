"""The features and constants of a released model, each an Extractor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cot_service.analysis import VideoAnalysis, analyse
from cot_service.analysis_planner import AnalysisPlanner, plan_from
from cot_service.build import build_planner
from cot_service.config import PlannerConfig
from cot_service.plan import Plan
from foundation.build import load_codec
from foundation.release import Release
from media.audio import fit_length, resample
from media.clip import Clip
from media.errors import NoSound
from media.features import AUDIO, AUDIO_SCALE, SYNC, TEXT, VIDEO, VIDEO_GLOBAL
from media.manifest import sha256_of
from media.opening import open_media, picture_stream, sound_stream
from media.picture import stream_start
from media.sound import read_sound
from media.stretches import Stretch
from media.video import probe, read_clip
from pipelines.extractor import Extractor
from pipelines.segments import MAX_SECONDS, SHORT_SIDE, read_video, shown
from rewards_service.stereo.image import ARRAYS, RATE, identity, measure

if TYPE_CHECKING:
    from foundation.oobleck import Oobleck
    from foundation.released_encoders import ReleasedEncoders

DELAYS = ARRAYS


@dataclass
class Encoded(Extractor):
    """What an encoder of a release gives. device, weights (their dtype), max_tokens: see `ReleasedEncoders`."""

    release: Release
    device: str = "cpu"
    weights: str = "float32"
    max_tokens: int | None = None

    @cached_property
    def identity(self) -> str:
        """The encoder's, with the digest of its files."""
        return self._made("cpu").identity(self.name)

    @cached_property
    def encoders(self) -> ReleasedEncoders:
        """Loaded by what is first asked of them, in the worker."""
        return self._made(self.device)

    def _made(self, device: str) -> ReleasedEncoders:
        from foundation.released_encoders import ReleasedEncoders

        return ReleasedEncoders(self.release, device, self.max_tokens, getattr(torch, self.weights))


class VideoPrismFeatures(Encoded):
    """(4 per second, D) of the frames and (D,) of the whole stretch."""

    name = "videoprism"
    names = (VIDEO, VIDEO_GLOBAL)

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """Frame and clip embeddings."""
        frames, whole = self.encoders.video_and_global(stretch.uri, stretch.start, stretch.seconds)
        return {VIDEO: frames, VIDEO_GLOBAL: whole}


class SynchformerFeatures(Encoded):
    """(8 per segment, D) of the picture: a condition, and what the temporal reward compares with."""

    name = "synchformer"
    names = (SYNC,)

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """Visual tokens."""
        return {SYNC: self.encoders.sync(stretch.uri, stretch.start, stretch.seconds)}


class T5GemmaFeatures(Encoded):
    """(tokens, D) of the plan's text; equal texts are encoded once."""

    name = "t5gemma"
    names = (TEXT,)

    def key(self, stretch: Stretch) -> str:
        """Of the text alone."""
        return stretch.text_id

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """Last hidden state."""
        return {TEXT: self.encoders.text([stretch.text])[0]}


@dataclass
class OobleckLatents(Extractor):
    """The clip's own sound in the autoencoder: mean and standard deviation, (channels, frames) each."""

    release: Release
    device: str = "cpu"
    name = "oobleck"
    names = (AUDIO, AUDIO_SCALE)

    @cached_property
    def identity(self) -> str:
        """With the digest of the file that holds the autoencoder."""
        return f"oobleck-{sha256_of(self.release.vae or self.release.model)[:10]}"

    def load(self) -> None:
        """Read the autoencoder."""
        self._codec: Oobleck = load_codec(self.release.folder, self.device)  # pyright: ignore[reportAttributeAccessIssue]

    @torch.inference_mode()
    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """Of the sound, cut or padded to whole latent frames. Raises NoSound."""
        codec = self._codec
        frames = max(1, round(stretch.seconds * codec.sample_rate / codec.hop))
        sound = fit_length(sound_of(stretch, codec.sample_rate), frames * codec.hop)
        mean, scale = codec.posterior(torch.from_numpy(sound)[None].to(self.device))
        return {AUDIO: mean[0].float().cpu().numpy(), AUDIO_SCALE: scale[0].float().cpu().numpy()}


@dataclass
class Delays(Extractor):
    """Stereo image of the clip's own sound, window by window, as the spatial reward measures generated sound.

    (windows,) each: middle of the window in s, delay in ms by which the right channel lags (GCC-PHAT, 100 to 2000 Hz),
    its confidence, amplitude (1 for the loudest); (windows, bands) each: level of the right channel above the left in
    dB, share of the energy, share of it in the difference of the channels (`rewards_service.stereo.image`). Mono and
    silent sound have delay and level 0.
    """

    window_s: float = 0.25
    hop_s: float = 0.125
    name = "delays"
    names = DELAYS

    @property
    def identity(self) -> str:
        """With a digest of the measurement's settings."""
        return identity(self.window_s, self.hop_s)

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """The measurement. Raises NoSound."""
        sound = torch.from_numpy(sound_of(stretch, RATE))[None]
        return measure(sound, self.window_s, self.hop_s).arrays()


@dataclass
class PlanTexts(Extractor):
    """The planner's four texts, kept as the bytes of their JSON, since a planner may cost more than any encoder."""

    planner: PlannerConfig
    name = "plan"
    names = ("plan",)

    @cached_property
    def identity(self) -> str:
        """The planner's name and version."""
        planner = build_planner(self.planner)
        return f"plan-{planner.name}-{planner.version}"

    def key(self, stretch: Stretch) -> str:
        """Of the stretch and its caption."""
        return f"{stretch.id}-{hashlib.sha256((stretch.caption or '').encode()).hexdigest()[:20]}"

    def load(self) -> None:
        """Build the planner."""
        self._planner = build_planner(self.planner)
        self._last: tuple[str, VideoAnalysis | None] = ("", None)

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """The plan that `pipelines.segments` would write."""
        text = json.dumps(self._plan(stretch).as_dict())
        return {"plan": np.frombuffer(text.encode(), np.uint8)}

    def _plan(self, stretch: Stretch) -> Plan:
        if not isinstance(self._planner, AnalysisPlanner):
            return self._planner.plan(_window(stretch), stretch.caption)
        if self._last[0] != stretch.uri:
            # Stretches of one video come together: it is analysed once, unless it is too long to be decoded at once.
            whole = None if probe(stretch.uri).seconds > MAX_SECONDS else analyse(read_video(Path(stretch.uri)))
            self._last = stretch.uri, whole
        whole = self._last[1]
        seen = analyse(_window(stretch)) if whole is None else shown(whole, stretch.start, stretch.seconds)
        return plan_from(seen, stretch.caption)


def _window(stretch: Stretch) -> Clip:
    return read_clip(stretch.uri, short_side=SHORT_SIDE, start=stretch.start, seconds=stretch.seconds, audio=False)


def plan_of(stored: np.ndarray) -> Plan:
    """The plan in an array that `PlanTexts` stored."""
    return Plan(**json.loads(stored.astype(np.uint8).tobytes()))


def sound_of(stretch: Stretch, rate: int) -> np.ndarray:
    """(2, S) float32 of a stretch at `rate` Hz, on the clock of the picture. Raises NoSound and other MediaErrors."""
    with open_media(stretch.uri) as container:
        if not container.streams.audio:
            raise NoSound(stretch.uri, "has no sound of its own.")
        origin = stream_start(picture_stream(container, stretch.uri))
        sound = sound_stream(container, stretch.uri)
        waveform, own = read_sound(container, sound, origin, stretch.start, stretch.seconds)
    return fit_length(resample(waveform, own, rate), round(stretch.seconds * rate))
