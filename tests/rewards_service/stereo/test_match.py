"""How two stereo images fit, by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards_service.stereo.image import StereoImage
from rewards_service.stereo.match import Match, Softness, kernel, match

SOFTNESS = Softness(delay_ms=0.1, level_db=3.0, side_db=6.0, mono_loss_db=3.0)


def image(windows: int = 2, delay: float = 0.2, level: float = 4.0, side: float = 0.1) -> StereoImage:
    row, flat = torch.ones(1, windows), torch.ones(1, windows, 4)
    return StereoImage(torch.arange(windows) / 8, delay * row, 5 * row, level * flat, flat / 4, side * flat, row)


def fit(heard: StereoImage, target: StereoImage, trust: float = 1.0, seen: bool = False, by_mse: bool = False) -> Match:
    trusted = torch.full_like(target.delay_ms, trust)
    return match(heard, target, torch.tensor([seen]), trusted, SOFTNESS, by_mse)


def test_the_same_image_fits_wholly() -> None:
    found = fit(image(), image())
    assert found.value.item() == pytest.approx(1.0, abs=1e-4)
    assert found.mse_ms2.item() == 0.0
    assert found.weights.tolist() == [[0.5, 0.5]]


def test_each_difference_halves_its_own_term() -> None:
    """Softness off by one each: the geometric mean of a half, 1 and 1 is a cube root."""
    root = 0.5 ** (1 / 3)
    late, loud = fit(image(delay=0.3), image()), fit(image(level=7.0), image())
    assert (late.delay.item(), late.value.item()) == pytest.approx((0.5, root), abs=1e-4)
    assert (loud.level.item(), loud.value.item()) == pytest.approx((0.5, root), abs=1e-4)
    # 6 dB more than a side of 0.101, with the floor of 0.001.
    wide = fit(image(side=0.101 * 10**0.6 - 0.001), image())
    assert wide.side.item() == pytest.approx(0.5, abs=1e-4)
    assert wide.mono.item() < 1


def test_what_the_mono_mix_loses_more_than_the_references_multiplies() -> None:
    """The reference keeps 0.9 of its energy, this 0.446: with the floor of 0.01 it is 3 dB less."""
    kept = 0.91 * 10**-0.3 - 0.01
    assert fit(image(side=1 - kept), image(side=0.1)).mono.item() == pytest.approx(0.5, abs=1e-4)
    assert fit(image(side=0.0), image(side=0.5)).mono.item() == 1.0


def test_a_place_on_screen_has_no_width_and_an_untrusted_delay_no_part() -> None:
    late = fit(image(delay=0.3, side=0.0), image(), seen=True)
    assert late.value.item() == pytest.approx(0.5**0.5, abs=1e-4)
    assert fit(image(delay=0.9), image(), trust=0.0).value.item() == pytest.approx(1.0, abs=1e-3)
    half = fit(image(delay=0.3), image(), trust=0.5)
    assert half.value.item() == pytest.approx(0.5 ** (0.5 / 2.5), abs=1e-4)


def test_one_window_far_off_costs_more_by_mean_square() -> None:
    """Differences of 0 and 0.3 ms: the mean of 1 and 0.1, or 1 / (1 + 0.045 / 0.01)."""
    heard = replace(image(), delay_ms=torch.tensor([[0.2, 0.5]]))
    assert fit(heard, image()).delay.item() == pytest.approx(0.55, abs=1e-4)
    assert fit(heard, image(), by_mse=True).delay.item() == pytest.approx(1 / 5.5, abs=1e-4)
    assert fit(heard, image()).mse_ms2.item() == pytest.approx(0.045, abs=1e-6)


def test_windows_count_by_what_sounds_in_both() -> None:
    """The second window is off, but soft: amplitudes 1 and 0.04 weigh 1 and 0.2."""
    heard = replace(image(), delay_ms=torch.tensor([[0.2, 0.5]]), amplitude=torch.tensor([[1.0, 0.04]]))
    found = fit(heard, image())
    assert found.weights[0].tolist() == pytest.approx([1 / 1.2, 0.2 / 1.2], abs=1e-5)
    assert found.delay.item() == pytest.approx((1 + 0.1 * 0.2) / 1.2, abs=1e-4)


def test_sound_where_the_reference_has_none_is_not_heard() -> None:
    first = replace(image(), amplitude=torch.tensor([[1.0, 0.0]]))
    second = replace(image(), amplitude=torch.tensor([[0.0, 1.0]]))
    found = fit(second, first)
    assert (found.heard.item(), found.value.item()) == (0.0, 0.0)


@given(
    delay=st.floats(-1, 1), level=st.floats(-40, 40), side=st.floats(0, 1), trust=st.floats(0, 1), seen=st.booleans()
)
def test_it_is_never_outside_zero_and_one(delay: float, level: float, side: float, trust: float, seen: bool) -> None:
    value = fit(image(delay=delay, level=level, side=side), image(), trust, seen).value.item()
    assert 0 <= value <= 1 + 1e-6


def test_the_kernel() -> None:
    assert kernel(torch.tensor([0.0, 2.0, 6.0]), 2.0).tolist() == pytest.approx([1.0, 0.5, 0.1])
