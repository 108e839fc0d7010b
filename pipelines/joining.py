"""Overlapping pieces of sound into one, piece by piece."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from foundation.output import limit_peak

Crossfade = Literal["linear", "power"]


def join(pieces: Iterable[tuple[int, Tensor]], fade: int, crossfade: Crossfade = "linear") -> Iterator[Tensor]:
    """Finished stretches (2, n), in order and without gaps, of pieces (2, S) that begin at rising samples.

    Only what later pieces still reach is held. linear: amplitudes ramp over `fade` samples at both ends of a piece and
    are divided by their sum; what two pieces cover beyond that is their mean. power: each piece hands over to the next
    within the first `fade` samples that they share, in weights whose squares sum to 1: pieces made from different
    noise are uncorrelated, so that linear ramps dip by 3 dB where they cross and a mean of two is 3 dB too low.
    """
    held, weight, origin = torch.zeros(2, 0), torch.zeros(0), 0
    for first, (start, piece), follows in _with_next(pieces):
        yield _finished(held[:, : start - origin], weight[: start - origin], crossfade)
        held, weight, origin = held[:, start - origin :], weight[start - origin :], start
        more = piece.shape[-1] - held.shape[1]
        if more > 0:
            held, weight = torch.cat([held, torch.zeros(2, more)], 1), torch.cat([weight, torch.zeros(more)])
        envelope = _envelope(piece.shape[-1], fade, first, None if follows is None else follows - start, crossfade)
        held[:, : piece.shape[-1]] += envelope * piece
        weight[: piece.shape[-1]] += envelope if crossfade == "linear" else envelope.square()
    yield _finished(held, weight, crossfade)


def overlap_add(pieces: Tensor, starts: Sequence[int], samples: int, fade: int) -> Tensor:
    """Join (B, 2, S) pieces that begin at `starts` (in samples): weights ramp over `fade` samples and sum to 1."""
    joined = torch.cat(list(join(zip(starts, pieces, strict=True), fade)), 1)[:, :samples]
    return limit_peak(torch.nn.functional.pad(joined, (0, samples - joined.shape[1])))


def _envelope(length: int, fade: int, first: bool, hop: int | None, crossfade: Crossfade) -> Tensor:
    """(length,) weights of a piece; hop: samples until the next one begins, None for the last."""
    envelope = torch.ones(length)
    ramp = torch.linspace(0, 1, fade + 2)[1:-1]
    if crossfade == "power":
        ramp = (ramp * torch.pi / 2).sin()
    if not first:
        envelope[:fade] = ramp[: min(fade, length)]
    if hop is not None and crossfade == "linear":
        envelope[-fade:] = envelope[-fade:] * ramp.flip(0)[-min(fade, length) :]
    elif hop is not None:
        falling = envelope[hop : hop + fade]
        envelope[hop : hop + fade] = falling * ramp.flip(0)[: len(falling)]
        envelope[hop + fade :] = 0
    return envelope


def _finished(total: Tensor, weight: Tensor, crossfade: Crossfade) -> Tensor:
    return total / (weight if crossfade == "linear" else weight.sqrt()).clamp_min(1e-6)


def _with_next(
    pieces: Iterable[tuple[int, Tensor]],
) -> Iterator[tuple[bool, tuple[int, Tensor], int | None]]:
    """(is the first, the piece, start of the next one or None)."""
    first, before = True, None
    for piece in pieces:
        if before is not None:
            yield first, before, piece[0]
            first = False
        before = piece
    if before is not None:
        yield first, before, None
