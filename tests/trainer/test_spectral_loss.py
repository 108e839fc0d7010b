"""The spectral distance: values derived by hand, and the ear's weighting."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.spectral_loss import LEAST_SHARE, SpectralLoss, a_weighting


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_equal_sounds_are_at_distance_zero() -> None:
    sound = noise(2, 2, 4096)
    assert SpectralLoss(44_100)(sound, sound).item() == 0


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
def test_twice_as_loud(weighted: bool, channels: int) -> None:
    """|2Y - Y| / |Y| = 1 and |log 2Y - log Y| = ln 2, at every resolution, for sum and difference alike."""
    sound = noise(3, channels, 8192)
    loss = SpectralLoss(44_100, resolutions=(1024, 256), weighted=weighted)(2 * sound, sound)
    assert loss.item() == pytest.approx(1 + math.log(2), abs=1e-3)


def test_one_wrong_channel_shows_in_sum_and_difference() -> None:
    """With L twice too loud, the sum is off by L and the difference too: the mean of |L|/|L+R| and |L|/|L-R|."""
    real = noise(1, 2, 65536)
    made = torch.stack([2 * real[:, 0], real[:, 1]], dim=1)
    loss = SpectralLoss(44_100, resolutions=(512,), weighted=False)
    window = torch.hann_window(512)

    def spectrum(x: Tensor) -> Tensor:
        return torch.stft(x, 512, 128, window=window, return_complex=True).abs()

    expected = []
    for sign in (1, -1):
        y, x = spectrum(real[:, 0] + sign * real[:, 1]), spectrum(2 * real[:, 0] + sign * real[:, 1])
        expected.append(((x - y).norm() / y.norm() + (x.log() - y.log()).abs().mean()).item())
    assert loss(made, real).item() == pytest.approx(np.mean(expected), rel=1e-3)


def test_the_difference_of_a_mono_recording_does_not_drown_the_rest() -> None:
    """Its difference is silence, so an error there counts in relation to the sum, at 40 dB below it."""
    mono = noise(1, 1, 16384).expand(1, 2, -1)
    error = 1e-3 * noise(1, 1, 16384, seed=1)
    made = mono + torch.cat([error, -error], dim=1)
    loss = SpectralLoss(44_100, resolutions=(512,), weighted=False)
    share = 1e-3 / LEAST_SHARE  # |2 e| / (0.01 |2 m|), of the difference; the sum is right
    log_ratio = math.log(2e-3 * math.sqrt(512 * 3 / 8) / 1e-4)  # amplitude of the error over the floor, roughly
    assert loss(made, mono).item() == pytest.approx((share + log_ratio) / 2, rel=0.1)


def test_gradients_are_finite_where_there_is_silence() -> None:
    made = torch.zeros(1, 2, 4096, requires_grad=True)
    SpectralLoss(44_100)(made, noise(1, 2, 4096)).backward()
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()
    silent = noise(1, 2, 4096).requires_grad_()
    SpectralLoss(44_100)(silent, torch.zeros(1, 2, 4096)).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def decibel(taps: np.ndarray, frequency: float) -> float:
    turns = np.exp(-2j * np.pi * frequency / 44_100 * np.arange(len(taps)))
    return 20 * math.log10(abs(complex(taps @ turns)))


@pytest.mark.parametrize("frequency", [800, 1000, 3000, 6000, 10_000, 15_000])
def test_a_weighting(frequency: int) -> None:
    """The closed form of IEC 61672-1, where the bilinear transform puts each frequency."""
    taps = a_weighting(44_100).numpy()
    assert np.allclose(taps, taps[::-1], atol=1e-7)
    f2 = (44_100 / math.pi * math.tan(math.pi * frequency / 44_100)) ** 2
    low = (f2 + 20.6**2) * math.sqrt((f2 + 107.7**2) * (f2 + 737.9**2))
    expected = 2.0 + 20 * math.log10(12194**2 * f2**2 / (low * (f2 + 12194**2)))
    assert decibel(taps, frequency) == pytest.approx(expected, abs=0.3)
    assert decibel(taps, 20) < -15
