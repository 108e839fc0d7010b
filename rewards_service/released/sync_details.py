"""What Synchformer measured of each sound, in plain numbers."""

from typing import Any

from torch import Tensor

from foundation.synchformer import FPS
from rewards_service import temporal
from rewards_service.released.sync_view import View
from rewards_service.released.sync_windows import HOP_S, SEGMENT_S, Windows

MEASURES = {
    "expected_offset_s": temporal.expected_offset,
    "signed_offset_s": temporal.signed_offset,
    "likeliest_offset_s": temporal.likeliest_offset,
}


def details(
    found: Windows, heard: Tensor, guards: dict[int, dict[str, float]], view: View, window: int
) -> list[dict[str, Any]]:
    """Per sound: offsets per window, where the windows begin in the clip, and what the guard found; or why nothing.

    heard: (B,). guards: by sound. window: segments that the model takes at once.
    """
    members = len(heard) // found.groups
    numbers = {name: (measure(found.first), measure(found.last)) for name, measure in MEASURES.items()}
    rows: list[dict[str, Any]] = []
    for row in range(len(heard)):
        g = row // members
        lost = found.gated.get(g) or found.missing.get(g)
        if lost or not heard[row]:
            rows.append({"basis": lost or "nothing is heard"})
            continue
        starts, basis = _windows(found.segments[g], view, window)
        offsets = {name: [round(float(w[row]), 4) for w in pair[: len(starts)]] for name, pair in numbers.items()}
        rows.append({"basis": basis, "windows_start_s": starts, **offsets, **guards.get(row, {})})
    return rows


def _windows(segments: int, view: View, window: int) -> tuple[list[float], str]:
    """Times of the windows in the clip, and what they are, in words."""
    if view.crop_s is not None:
        start = view.skipped / FPS
        return [start], f"the picture from {start:g} s to {start + _seconds(window):g} s, as in the released reward"
    if segments < window:
        return [0.0], f"the picture's {_seconds(segments):.2f} s, repeated to fill one window"
    return [0.0, round(HOP_S * (segments - window), 2)], "the picture in its first and in its last window"


def _seconds(segments: int) -> float:
    return SEGMENT_S + HOP_S * (segments - 1)
