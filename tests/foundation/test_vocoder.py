"""The vocoder: what it keeps of level, time and place, on any length and both signs."""

import numpy as np
import pytest
import torch

from foundation.output import CEILING, limit_peak
from foundation.vocoder import BANDS, LATENT_NAMES, PAN_SCALE, Vocoder
from scenes import sound
from scenes.world import make_scene, scene_seed

SCENES = [make_scene(scene_seed("tests", 0, k)) for k in range(24)]
CLEAN = torch.from_numpy(np.stack([sound.render(s) for s in SCENES]))
CODEC = Vocoder()


def decibels(waveforms: torch.Tensor) -> torch.Tensor:
    return 20 * torch.log10(waveforms.pow(2).mean((1, 2)).sqrt())


def test_shapes_and_determinism() -> None:
    latents = CODEC.encode(CLEAN[:2])
    assert latents.shape == (2, CODEC.channels, 64)
    assert len(LATENT_NAMES) == CODEC.channels
    assert CODEC.decode(latents).shape == (2, 2, 32_000)
    assert torch.equal(CODEC.decode(latents), Vocoder().decode(Vocoder().encode(CLEAN[:2])))


@pytest.mark.parametrize("frames", [1, 40, 64, 150])
def test_any_length(frames: int) -> None:
    out = CODEC.decode(torch.randn(1, CODEC.channels, frames))
    assert out.shape == (1, 2, frames * CODEC.hop)
    assert out.isfinite().all()


def test_frames_add_up_and_the_carriers_go_round() -> None:
    turn = CODEC.carrier_frames
    latents = torch.randn(1, CODEC.channels, turn + 6, generator=torch.Generator().manual_seed(0))
    alone = latents.repeat(latents.shape[-1], 1, 1)
    silent = torch.eye(latents.shape[-1])[:, None] == 0
    alone[:, :BANDS] = alone[:, :BANDS].masked_fill(silent, -9.0)  # all frames but one, far below the floor
    pieces = CODEC.decode(alone)
    torch.testing.assert_close(pieces.sum(0), CODEC.decode(latents)[0], rtol=0, atol=1e-5)
    reach = torch.arange(pieces.shape[-1]) - (torch.arange(len(pieces))[:, None] + 0.5) * CODEC.hop
    assert (pieces.abs().amax(1)[reach.abs() > CODEC.hop] == 0).all()
    again = CODEC.decode(latents[..., turn:])[0]
    torch.testing.assert_close(pieces[turn:].sum(0)[:, -2000:], again[:, -2000:], rtol=0, atol=1e-5)


def test_a_clip_is_decoded_alike_alone_and_in_a_batch() -> None:
    latents = torch.randn(5, CODEC.channels, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(CODEC.decode(latents[2:3])[0], CODEC.decode(latents)[2], rtol=0, atol=1e-5)


def test_level_survives_a_round_trip() -> None:
    assert (decibels(CODEC.decode(CODEC.encode(CLEAN))) - decibels(CLEAN)).abs().mean() < 1.0


def test_energy_stays_where_it_was() -> None:
    heard = CODEC.decode(CODEC.encode(CLEAN))
    envelope = [w.pow(2).sum(1).unflatten(1, (-1, 500)).sum(-1) for w in (CLEAN, heard)]
    likeness = torch.cosine_similarity(envelope[0], envelope[1], dim=1)
    assert likeness.mean() > 0.9


def test_latents_carry_position_at_impacts() -> None:
    latents = CODEC.encode(CLEAN)
    for channel in (24, 25):
        told = [latents[k, channel, int(t * 32)] / PAN_SCALE for k, s in enumerate(SCENES) for t in s.events]
        true = [s.position(t) for s in SCENES for t in s.events]
        assert np.corrcoef(told, true)[0, 1] > 0.97


@pytest.mark.parametrize("pan", [-0.8, 0.0, 0.8])
def test_decoding_places_sound_by_level_and_delay(pan: float) -> None:
    latents = CODEC.encode(CLEAN[:1]).clone()
    latents[:, 24:26] = pan * PAN_SCALE
    left, right = CODEC.decode(latents)[0]
    assert 10 * torch.log10(right.pow(2).sum() / left.pow(2).sum()) == pytest.approx(12 * pan, abs=0.5)
    again = CODEC.encode(CODEC.decode(latents))
    loud = again[0, :24].mean(0).argmax()
    assert again[0, 25, loud] / PAN_SCALE == pytest.approx(pan, abs=0.15)


def test_silence_stays_silent() -> None:
    assert CODEC.decode(CODEC.encode(torch.zeros(1, 2, 32_000))).abs().max() < 1e-4


def test_peaks_are_limited_per_clip() -> None:
    quiet, loud = CLEAN[0] * 0.1, CLEAN[1] * 100
    out = limit_peak(torch.stack([quiet, loud]))
    assert torch.equal(out[0], quiet)
    assert out[1].abs().max() == pytest.approx(CEILING)
    assert limit_peak(torch.zeros(1, 2, 8)).abs().max() == 0
