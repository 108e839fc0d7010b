"""Noise levels, learning rate and averaging of supervised training against the original's numbers and by hand."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.timesteps import ema_decay, inverse_lr, noise_levels

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "timesteps.json").read_text(encoding="utf-8"))


def test_the_official_distribution_to_its_numbers() -> None:
    draws = torch.tensor(GOLDEN["standard_normal_draws"])
    torch.testing.assert_close(noise_levels(draws), torch.tensor(GOLDEN["t"]), atol=1e-5, rtol=0)


def test_the_other_distributions_by_hand() -> None:
    draws = torch.tensor([0.0, 1.0, -1.959964])
    torch.testing.assert_close(noise_levels(draws, "uniform"), torch.tensor([0.5, 0.841345, 0.025]), atol=1e-6, rtol=0)
    torch.testing.assert_close(noise_levels(draws, "logit_normal")[:2], torch.tensor([0.5, 0.731059]))


@given(st.lists(st.floats(-40, 40, width=32), min_size=1), st.sampled_from(["trunc_logit_normal", "uniform"]))
def test_levels_lie_between_data_and_noise_and_follow_the_draw(draws: list[float], sampler) -> None:
    levels = noise_levels(torch.tensor(sorted(draws)), sampler)
    assert torch.isfinite(levels).all()
    assert ((levels >= 0) & (levels <= 1)).all()
    steps = levels.diff()
    assert (steps <= 0).all() if sampler == "trunc_logit_normal" else (steps >= 0).all()


def test_the_learning_rate_rises_and_falls_as_the_inverse_root() -> None:
    assert inverse_lr(0, 1e-4) == pytest.approx(1e-6)
    assert inverse_lr(1, 1e-4) == pytest.approx(1e-4 * (1 + 1e-5) ** -0.5 * (1 - 0.9801))
    assert inverse_lr(100_000, 1e-4) == pytest.approx(1e-4 / 2**0.5)
    assert inverse_lr(300_000, 1e-4, power=1.0) == pytest.approx(1e-4 / 4)
    assert inverse_lr(7, 1e-4, inv_gamma=1.0, power=1.0, warmup=0.0) == pytest.approx(1e-4 / 8)


def test_the_average_copies_at_first_and_then_remembers() -> None:
    """As ema_pytorch.EMA with beta .9999, power 3/4, update_every 1, update_after_step 1: epoch = step - 2."""
    assert [ema_decay(n) for n in (1, 2, 3)] == [0.0, 0.0, 0.0]
    assert ema_decay(4) == pytest.approx(1 - 3**-0.75)
    assert ema_decay(10_001) == pytest.approx(0.999)
    assert ema_decay(10**7) == 0.9999
