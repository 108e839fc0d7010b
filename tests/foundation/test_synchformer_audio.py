"""Synchformer's front end for sound against the original's numbers, and which samples and frames belong together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foundation import synchformer_audio as sound
from foundation.resampling import resample
from foundation.synchformer import SynchformerVisual
from foundation.synchronisation import windows
from tests.foundation.conftest import read_json, read_tensors

GOLDEN = read_tensors("synchformer_sound.safetensors")


@pytest.mark.parametrize("name", ["16k_width6", "16k_width64", "48k_width6"])
def test_resampling_is_torchaudios(name: str):
    kilohertz, width = name.split("k_width")
    audio = GOLDEN["wave_44k"] / 32767
    found = resample(audio, 44_100, 1000 * int(kilohertz), int(width))
    torch.testing.assert_close(found, GOLDEN[f"to_{name}"], atol=1e-5, rtol=0)


def test_resampling_keeps_a_tone_and_its_leading_axes():
    times = torch.arange(4410) / 44_100
    tone = torch.sin(2 * torch.pi * 440 * times).expand(3, 2, -1)
    found = resample(tone, 44_100, 16_000, 64)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(1600) / 16_000)
    assert found.shape == (3, 2, 1600)
    torch.testing.assert_close(found[1, 0, 100:-100], expected[100:-100], atol=2e-3, rtol=0)
    torch.testing.assert_close(resample(tone[0, 0], 44_100, 16_000, 64), found[2, 1])
    assert resample(tone, 44_100, 44_100) is tone
    with pytest.raises(ValueError, match="at least 1"):
        resample(tone, 0, 16_000)


@given(st.integers(1, 4000), st.sampled_from([8000, 16_000, 22_050, 44_100, 48_000]), st.sampled_from([16_000, 48_000]))
def test_resampled_length_is_rounded_up(samples: int, rate: int, new_rate: int):
    assert resample(torch.zeros(1, samples), rate, new_rate).shape[-1] == -(-samples * new_rate // rate)


def test_what_the_tower_hears_is_the_originals():
    cut = sound.segments((GOLDEN["wave_16k"] / 32767)[None])
    assert cut.shape == (1, 2, sound.SEGMENT)
    torch.testing.assert_close(sound.log_mel(cut)[0].mT, GOLDEN["mel"], atol=5e-4, rtol=0)
    torch.testing.assert_close(sound.log_mel(cut[0, 1]), sound.log_mel(cut)[0, 1])


def test_channels_are_averaged():
    stereo = GOLDEN["wave_44k"] / 32767
    found = sound.mono(stereo[None], 44_100)[0]
    torch.testing.assert_close(found, GOLDEN["to_16k_width64"].mean(0), atol=1e-5, rtol=0)
    assert not sound.mono(torch.stack([stereo[0], -stereo[0]])[None], 44_100).any()


@pytest.mark.parametrize("case", read_json("synchformer_segments.json")["av_benchmark"], ids=lambda c: c["segments"])
def test_segments_begin_where_av_benchmarks_do(case: dict):
    cut = sound.segments(torch.arange(case["audio_samples"])[None])[0]
    assert cut[:, 0].tolist() == case["starts"]
    assert (cut[:, -1] - cut[:, 0] == sound.SEGMENT - 1).all()
    # As many as the picture has in the same time.
    with torch.device("meta"):
        assert SynchformerVisual().segments(case["audio_samples"] * 25 // sound.RATE) == case["segments"]


def test_a_sound_shorter_than_a_segment_is_filled_up_with_silence():
    cut = sound.segments(torch.ones(2, 100))
    assert cut.shape == (2, 1, sound.SEGMENT)
    assert cut.sum() == 200


def test_windows_are_the_first_and_the_last_fourteen():
    assert windows(27) == (list(range(14)), list(range(13, 27)))
    assert windows(14) == (list(range(14)), list(range(14)))
    assert windows(5, 7) == ([0, 1, 2, 3, 4, 0, 1],) * 2
    with pytest.raises(ValueError, match="no windows"):
        windows(0)


def test_the_mel_scale_ends_at_8_khz():
    tones = torch.sin(2 * torch.pi * torch.tensor([[200.0], [7000.0]]) * torch.arange(sound.SEGMENT) / sound.RATE)
    loudest = sound.log_mel(tones)[:, 30].argmax(-1)
    # Band b of 128 is centred on (b + 1) / 129 of the mel scale's 2840.02.
    expected = 2595 * np.log10(1 + np.array([200, 7000]) / 700) / 2840.02 * 129 - 1
    np.testing.assert_allclose(loudest, expected, atol=1)
