"""The spectra that the scorers share, against torch's own short-time transform."""

import pytest
import torch

from rewards_service.spectra import CHUNK, band_power, mel_filters, power_frames


@pytest.mark.parametrize(("window", "hop", "samples"), [(256, 160, 4000), (512, 512, 5120), (512, 320, 257)])
def test_power_is_that_of_hann_frames_of_the_mean_of_both_channels(window: int, hop: int, samples: int) -> None:
    audio = torch.randn(CHUNK + 3, 2, samples, generator=torch.Generator().manual_seed(0))
    hann = torch.hann_window(window)
    transform = torch.stft(audio.mean(1), window, hop, window=hann, pad_mode="reflect", return_complex=True)
    wanted = transform.abs().square().mT
    torch.testing.assert_close(torch.cat(list(power_frames(audio, window, hop))), wanted, rtol=1e-4, atol=1e-4)
    filters = mel_filters(20, window, 16000, 80.0, 7600.0)
    torch.testing.assert_close(band_power(audio, window, hop, filters), wanted @ filters, rtol=1e-4, atol=1e-4)


def test_mel_filters_sum_to_one_and_leave_no_band_empty() -> None:
    filters = mel_filters(40, 512, 16000, 50.0, 8000.0)
    assert filters.shape == (257, 40)
    torch.testing.assert_close(filters.sum(0), torch.ones(40))
    centres = (filters * torch.arange(257)[:, None]).sum(0)
    assert (centres.diff() > 0).all()
