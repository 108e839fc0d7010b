"""How well one stereo image fits another: delay, level, width and mono compatibility, none of which buys the others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rewards_service.stereo.image import StereoImage

LEAST_HEARD = 0.1
LEAST_SIDE = 1e-3
LEAST_MID = 1e-2


@dataclass(frozen=True)
class Softness:
    """Differences that halve a term: of delays, levels and widths; mono_loss_db halves the whole."""

    delay_ms: float
    level_db: float
    side_db: float
    mono_loss_db: float


@dataclass(frozen=True)
class Match:
    """(B,) each. delay, level, side, mono, heard: the terms, 0 to 1. mse_ms2: of the delays. weights: (B, W)."""

    value: Tensor
    delay: Tensor
    level: Tensor
    side: Tensor
    mono: Tensor
    heard: Tensor
    mse_ms2: Tensor
    weights: Tensor


def kernel(difference: Tensor, softness: float) -> Tensor:
    """1 where there is none, a half where it is `softness`, and a slope that never ends."""
    return 1 / (1 + (difference / softness).square())


def match(
    heard: StereoImage,
    target: StereoImage,
    seen: Tensor,
    trust: Tensor,
    softness: Softness,
    by_mse: bool = False,
) -> Match:
    """Fit of B sounds to B targets in the same W windows.

    Windows weigh by what sounds in both, the delay also by (B, W) `trust` in the target's. The terms are averaged over
    windows (and bands, by their amplitude in the target) and multiplied like probabilities: their geometric mean, the
    delay's part as large as the trust in it. seen: (B,) targets without a width. by_mse: the delay's term is `kernel`
    of the root mean square difference, which single windows far off spoil, not the mean of it.
    """
    weights = (heard.amplitude * target.amplitude).sqrt()
    total = weights.sum(1)
    audible = 1 - torch.exp(-total / target.amplitude.sum(1).clamp_min(1e-6) / LEAST_HEARD)
    weights = weights / total.clamp_min(1e-6)[:, None]
    share = target.share.sqrt()
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-6)

    def mean(values: Tensor) -> Tensor:
        return (values * weights).sum(1)

    trusted = mean(trust)
    by_trust = weights * trust / trusted.clamp_min(1e-6)[:, None]
    difference = heard.delay_ms - target.delay_ms
    mse = (difference.square() * by_trust).sum(1)
    near = (kernel(difference, softness.delay_ms) * by_trust).sum(1)
    delay = kernel(mse.sqrt(), softness.delay_ms) if by_mse else near
    level = mean((kernel(heard.level_db - target.level_db, softness.level_db) * share).sum(-1))
    wider = _decibels(heard.side + LEAST_SIDE) - _decibels(target.side + LEAST_SIDE)
    side = mean((kernel(wider, softness.side_db) * share).sum(-1))
    loss = _decibels(1 - target.side + LEAST_MID) - _decibels(1 - heard.side + LEAST_MID)
    lost = mean((loss.clamp_min(0) * share).sum(-1))
    mono = kernel(lost, softness.mono_loss_db)
    widths = (~seen).float()
    logs = trusted * _log(delay) + _log(level) + widths * _log(side)
    value = audible * mono * torch.exp(logs / (trusted + 1 + widths))
    return Match(value, delay, level, side, mono, audible, mse, weights)


def _decibels(energy: Tensor) -> Tensor:
    return 10 * torch.log10(energy)


def _log(term: Tensor) -> Tensor:
    return term.clamp_min(1e-4).log()
