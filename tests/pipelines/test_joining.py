"""Joining pieces: constants, levels, memory."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.joining import join


def joined(starts: list[int], pieces: list[Tensor], fade: int, crossfade) -> Tensor:
    return torch.cat(list(join(zip(starts, pieces, strict=True), fade, crossfade)), 1)


@given(st.lists(st.integers(1, 12), max_size=6), st.integers(1, 8))
def test_every_sample_is_covered_once(hops: list[int], fade: int) -> None:
    starts = [0]
    for hop in hops:
        starts.append(starts[-1] + hop)
    out = joined(starts, [torch.full((2, 12), 0.5)] * len(starts), min(fade, 12), "linear")
    assert out.shape == (2, starts[-1] + 12)
    assert torch.allclose(out, torch.full_like(out, 0.5), atol=1e-5)


def test_power_ramps_by_hand() -> None:
    # Two pieces that share three samples, faded over two: 1, then 30 and 60 degrees, then the second one alone.
    first, second = torch.ones(2, 4), torch.full((2, 4), 2.0)
    out = joined([0, 1], [first, second], 2, "power")[0]
    sin, cos = 0.5, 3**0.5 / 2
    torch.testing.assert_close(out, torch.tensor([1.0, cos + 2 * sin, sin + 2 * cos, 2.0, 2.0]))


@pytest.mark.parametrize(("crossfade", "middle"), [("linear", 0.5**0.5), ("power", 1.0)])
def test_level_of_uncorrelated_pieces_where_they_cross(crossfade: str, middle: float) -> None:
    noise = torch.randn(2, 2, 400_000, generator=torch.Generator().manual_seed(0))
    fade, start = 200_000, 200_000
    out = joined([0, start], list(noise), fade, crossfade)
    assert out[:, :start].std().item() == pytest.approx(1, abs=0.01)
    assert out[:, start + fade :].std().item() == pytest.approx(1, abs=0.01)
    centre = start + fade // 2
    assert out[:, centre - 5_000 : centre + 5_000].std().item() == pytest.approx(middle, abs=0.02)


@pytest.mark.parametrize(("crossfade", "level"), [("linear", 0.5**0.5), ("power", 1.0)])
def test_a_last_piece_that_overlaps_far(crossfade: str, level: float) -> None:
    noise = torch.randn(2, 2, 100_000, generator=torch.Generator().manual_seed(0))
    out = joined([0, 10_000], list(noise), 1_000, crossfade)
    assert out[:, 20_000:90_000].std().item() == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("crossfade", ["linear", "power"])
def test_only_what_is_still_open_is_held(crossfade) -> None:
    taken = 0

    def pieces() -> Iterator[tuple[int, Tensor]]:
        nonlocal taken
        for index in range(50):
            taken += 1
            yield 90 * index, torch.ones(2, 100)

    done, samples = join(pieces(), 10, crossfade), 0
    for block in done:
        samples += block.shape[1]
        assert taken * 100 - samples <= 3 * 100 + taken * 10
    assert samples == 49 * 90 + 100
