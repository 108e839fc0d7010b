"""Flow-matching pre-training: its schedule by hand, and that it learns, reproducibly."""

import pytest
import torch

from foundation.config import ModelConfig
from foundation.encoders import EncoderConfig, Encoders
from foundation.model import FlowModel
from trainer.errors import DivergenceError
from trainer.pretrain import Examples, PretrainConfig, fit, learning_rate

SMALL = ModelConfig(latent_channels=3, width=32, depth=1, heads=1, video_dim=16, text_dim=16, sync_dim=16)


def examples() -> Examples:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (24,), generator=generator)
    latents = (2.0 * labels - 1)[:, None, None].expand(-1, 3, 8).clone()
    frames = torch.zeros(24, 4, 32, 32, dtype=torch.uint8)
    return Examples(frames, labels[:, None] + 1, latents)


def trained(seed: int = 0, **changes: object) -> tuple[FlowModel, list[float]]:
    torch.manual_seed(seed)
    flow, encoders = FlowModel(SMALL), Encoders(EncoderConfig(dim=16), 3)
    losses: list[float] = []
    config = PretrainConfig(**{"steps": 60, "batch": 12, "warmup_steps": 5, "seed": seed, **changes})  # type: ignore[arg-type]
    fit(flow, encoders, examples(), config, lambda _, loss: losses.append(loss))
    return flow, losses


def test_learning_rate_rises_stays_and_falls() -> None:
    config = PretrainConfig(steps=100, warmup_steps=10, lr=1.0, decay_from=0.6, final_share=0.1)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == learning_rate(60, config) == 1.0
    assert learning_rate(80, config) == pytest.approx(0.55)
    assert learning_rate(100, config) == pytest.approx(0.1)


def test_it_learns_and_leaves_an_average_in_evaluation_mode() -> None:
    flow, losses = trained()
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert not flow.training


def test_it_is_reproducible() -> None:
    first, second = trained(), trained()
    assert first[1] == second[1]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))
    assert trained(seed=1)[1] != first[1]


def test_channel_weights_reach_the_loss() -> None:
    assert trained(channel_weights={0: 5.0})[1] != trained()[1]


def test_divergence_is_an_error() -> None:
    with pytest.raises(DivergenceError, match=r"lower pretrain\.lr"):
        trained(lr=1e30, grad_clip=1e30, warmup_steps=0)
