"""Spatial reward against the reference clip's own stereo image. It needs no weights.

Recorded stereo agrees at high frequencies whatever the place (joint coding, common noise), so delays are those of 100
to 2000 Hz, and levels are always compared besides. A mono sound may have the delay of a stereo reference, but neither
its levels nor its width; swapped channels have the width alone; a constant delay has no levels and mixes badly to mono.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewards_service.batch import finish, prepare
from rewards_service.reference_sound import Remembered, reference_sound
from rewards_service.scores import Reference, Scores
from rewards_service.stereo.image import RATE, StereoImage, measure, stack
from rewards_service.stereo.match import Match, Softness, match
from rewards_service.stereo.store import StoredImages
from rewards_service.stereo.target import Target, from_positions, refusal

TRUST_WIDTH = 0.25
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class ImageScorer:
    """What the scorers by stereo image share: fit of delay, level per band, width and mono compatibility, 0 to 1.

    window_s, hop_s: the windows, in s. delay_softness_ms, level_softness_db, side_softness_db: differences that halve a
    term. mono_loss_db: what mixing down to mono may cost more than the reference's before the score is halved.
    least_confidence: of a reference's delay, its peak over the mean, to count half. least_side_db: side over mid below
    which a reference is mono. edge_delay_ms, edge_level_db: of a source at the edge of the picture.
    """

    by_mse: ClassVar[bool] = False
    window_s: float = 0.25
    hop_s: float = 0.125
    delay_softness_ms: float = 0.1
    level_softness_db: float = 3.0
    side_softness_db: float = 6.0
    mono_loss_db: float = 3.0
    least_confidence: float = 3.0
    least_side_db: float = -30.0
    edge_delay_ms: float = 0.625
    edge_level_db: float = 12.0
    device: str = "cpu"

    @torch.inference_mode()
    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms. References that say nothing are gated, those that cannot be read missing."""
        batch = prepare(waveforms, sample_rate, references, RATE)
        heard = self.listen(batch.audio.to(self.device))
        times = heard.times.cpu()
        own, missing = self._known.of(references, batch.members)
        targets = [self._or_seen(*pair, times) for pair in zip(own, references, strict=True)]
        nothing = heard.map(lambda x: torch.zeros_like(x[:1])).to("cpu")
        images = stack([nothing if t.image is None else t.image.at(times) for t in targets]).to(self.device)
        target = images.map(batch.expand)
        seen = batch.expand(torch.tensor([t.seen for t in targets], device=self.device))
        # Where something is seen does not tell in which bands it sounds; the sound does.
        target = replace(target, share=torch.where(seen[:, None, None], heard.share, target.share))
        found = match(heard, target, seen, self.trust(target), self._softness, self.by_mse)
        gated = {g: t.basis for g, t in enumerate(targets) if t.image is None and (g, 0) not in missing}
        measured = details(heard.to("cpu"), target.to("cpu"), found, targets) if detail else None
        return finish(batch, found.value, measured, gated=gated, missing=missing)

    def listen(self, audio: Tensor) -> StereoImage:
        """The image of (B, 2, S) sounds at 16 kHz on the device."""
        return measure(audio, self.window_s, self.hop_s)

    def trust(self, image: StereoImage) -> Tensor:
        """(B, W) 0 to 1: how much an image's delays are worth; nothing in diffuse sound, or where the band is empty."""
        audible = image.delay_share / (image.delay_share + LEAST_SHARE)
        return torch.sigmoid((image.confidence - self.least_confidence) / TRUST_WIDTH) * audible

    def stored(self, reference: Reference) -> StereoImage | None:
        """What is known of a reference's image already."""
        return None

    def own_sound(self, reference: Reference) -> Target:
        """A reference's own sound as a target. Raises MediaError when its file cannot be read."""
        image = self.stored(reference)
        if image is None:
            sound = reference_sound(reference, RATE)
            if sound is None:
                return Target("the reference clip has no sound")
            image = self.listen(torch.from_numpy(sound)[None].to(self.device)).to("cpu")
        refused = refusal(image, self.trust(image), self.least_side_db)
        return Target(refused) if refused else Target("the reference clip's own sound", image)

    @cached_property
    def _known(self) -> Remembered[Target]:
        return Remembered(self.own_sound, Target("the reference clip cannot be read"))

    @property
    def _softness(self) -> Softness:
        return Softness(self.delay_softness_ms, self.level_softness_db, self.side_softness_db, self.mono_loss_db)

    def _or_seen(self, own: Target, reference: Reference, times: Tensor) -> Target:
        if own.image is not None:
            return own
        seen = from_positions(reference, times, self.window_s, self.edge_delay_ms, self.edge_level_db)
        return seen if seen.image is not None else Target(f"{own.basis}, and {seen.basis}")


@dataclass(frozen=True)
class StereoScorer(ImageScorer):
    """Delays by GCC-PHAT. store: a feature store whose `delays` are used for the clips that it holds."""

    store: str = ""

    @cached_property
    def _stored(self) -> StoredImages:
        return StoredImages(self.store, self.window_s, self.hop_s)

    def stored(self, reference: Reference) -> StereoImage | None:
        """From the store. Raises RewardError when there are no delays of these windows in it."""
        return self._stored.of(reference) if self.store else None


def details(heard: StereoImage, target: StereoImage, found: Match, targets: list[Target]) -> list[dict[str, Any]]:
    """What was measured of each of B samples, in plain types; of gated ones the reason alone."""
    columns = {
        "time_s": heard.times.expand_as(heard.delay_ms),
        "delay_ms": heard.delay_ms,
        "reference_delay_ms": target.delay_ms,
        "level_db": heard.broad_level_db,
        "reference_level_db": target.broad_level_db,
        "reference_confidence": target.confidence,
        "weight": found.weights,
    }
    lists = {name: _rounded(column, 3) for name, column in columns.items()}
    terms = ("delay", "level", "side", "mono", "heard", "mse_ms2")
    measures = {name: _rounded(getattr(found, name), 4) for name in terms}
    rows: list[dict[str, Any]] = []
    for index in range(len(heard.delay_ms)):
        against = targets[index * len(targets) // len(heard.delay_ms)]
        row: dict[str, Any] = {"basis": against.basis}
        if against.image is not None:
            row |= {name: values[index] for name, values in measures.items()}
            windows = zip(*(values[index] for values in lists.values()), strict=True)
            row["windows"] = [dict(zip(lists, window, strict=True)) for window in windows]
        rows.append(row)
    return rows


def _rounded(values: Tensor, digits: int) -> list[Any]:
    return np.round(values.cpu().double().numpy(), digits).tolist()
