"""What a clip's stereo image is judged against: its own sound, or the place on screen, or nothing."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rewards_service.scores import Reference
from rewards_service.spatial import basis
from rewards_service.stereo.image import BANDS_HZ, StereoImage

EVENT_S = 0.13
CENTRED = 0.1
SEEN_SIDE = 0.75  # a delayed tone may lose this much in a mono mix
LEAST_TRUST = 0.2
LEAST_LEVEL_DB = 0.5


@dataclass(frozen=True)
class Target:
    """A stereo image of one sound (B = 1) on the CPU, or a reason why there is none.

    seen: it is a place on screen, which says nothing about width. basis: in words.
    """

    basis: str
    image: StereoImage | None = None
    seen: bool = False


def refusal(image: StereoImage, trust: Tensor, least_side_db: float = -30.0) -> str | None:
    """Why a sound (B = 1) with this image says nothing about places; None when it does.

    trust: (1, W) in its delays. least_side_db: side over mid below which it is mono. It must have either one source at
    a time, of which the delay stands out, or a level difference.
    """
    width = side_over_mid_db(image)
    if width <= least_side_db:
        return f"the reference clip is mono (side {-width:.0f} dB below mid)"
    weights = image.amplitude / image.amplitude.sum().clamp_min(1e-9)
    if float((weights * trust).sum()) >= LEAST_TRUST:
        return None
    if float((weights * image.broad_level_db.abs()).sum()) >= LEAST_LEVEL_DB:
        return None
    return "the reference clip is diffuse: no delay stands out, and both channels are equally loud"


def side_over_mid_db(image: StereoImage) -> float:
    """Energy of a sound's (B = 1) difference of the channels over their sum, in dB."""
    energy = image.amplitude[..., None].square() * image.share
    side = float((energy * image.side).sum() / energy.sum().clamp_min(1e-12))
    return float(10 * np.log10(max(side, 1e-9) / max(1 - side, 1e-9)))


def from_positions(reference: Reference, times: Tensor, window_s: float, delay_ms: float, level_db: float) -> Target:
    """Of the place on screen at (W,) times: at the impacts where there are any, else everywhere.

    delay_ms: of the left channel after the right, and level_db: of the right above the left, from the right edge.
    """
    if not reference.positions:
        return Target("nothing is known of where its source is seen")
    if max(abs(position) for position in reference.positions) < CENTRED:
        return Target("its source is seen in the middle, where mono is as right")
    places = torch.tensor([[reference.position_at(float(time)) for time in times]], dtype=torch.float32)
    audible = torch.ones_like(places)
    if reference.events:
        since = times[:, None].cpu() - torch.tensor(reference.events, dtype=torch.float32)
        audible = ((since > -window_s / 2) & (since < window_s / 2 + EVENT_S)).any(1).float()[None]
    bands = len(BANDS_HZ) - 1
    flat = torch.ones(1, len(times), bands)
    image = StereoImage(
        times=times.cpu(),
        delay_ms=-places * delay_ms,
        confidence=torch.full_like(places, 10.0),
        level_db=places[..., None] * level_db * flat,
        share=flat / bands,
        side=flat * SEEN_SIDE,
        amplitude=audible,
    )
    return Target(basis(reference), image, seen=True)
