"""Flow-matching pre-training of the model and its encoders together (PrismAudio section 3: rectified flow)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from foundation.encoders import Encoders
from foundation.model import FlowModel, initialise_unit_gain, training_dropout
from settings import Section
from trainer.errors import DivergenceError


class PretrainConfig(Section):
    """Optimisation of the supervised stage.

    time_scale: t = sigmoid(time_scale * normal). channel_weights: loss weight per latent channel index, 1 elsewhere.
    warmup_steps, decay_from, final_share: the learning rate rises, stays, then falls linearly to a share of itself.
    """

    steps: PositiveInt = 1000
    batch: PositiveInt = 32
    lr: float = Field(default=3e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup_steps: int = 40
    decay_from: float = 0.6
    final_share: float = 0.05
    grad_clip: float = 1.0
    ema: float = Field(default=0.99, ge=0, lt=1)
    condition_dropout: float = Field(default=0.1, ge=0, lt=1)
    time_scale: float = 1.2
    channel_weights: dict[int, float] = {}
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """frames: (K, T, 32, 32) uint8. tokens: (K, N) int64. latents: (K, C, L) float32."""

    frames: Tensor
    tokens: Tensor
    latents: Tensor


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Learning rate at a step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = step / config.steps
    if progress <= config.decay_from:
        return config.lr
    fall = (progress - config.decay_from) / (1 - config.decay_from)
    return config.lr * (1 - (1 - config.final_share) * fall)


def fit(
    flow: FlowModel,
    encoders: Encoders,
    examples: Examples,
    config: PretrainConfig,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train in place and leave the exponential moving average of the weights in the modules.

    x_t = (1 - t) x0 + t eps; the target is v = eps - x0; conditions are dropped per path for guidance.
    """
    generator = torch.Generator().manual_seed(config.seed)
    initialise_unit_gain(flow, generator)
    parameters = [p for p in [*flow.parameters(), *encoders.parameters()] if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
    )
    weights = torch.ones(examples.latents.shape[1])
    for channel, weight in config.channel_weights.items():
        weights[channel] = weight
    weights = (weights / weights.mean())[:, None]
    flow.train()
    for step in range(config.steps):
        index = torch.randint(len(examples.latents), (config.batch,), generator=generator)
        x0 = examples.latents[index]
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.sigmoid(config.time_scale * torch.randn(config.batch, generator=generator))
        x = torch.lerp(x0, noise, t[:, None, None])
        features = encoders(examples.frames[index].float() / 255, examples.tokens[index])
        length = x0.shape[-1]
        drop = training_dropout(config.batch, config.condition_dropout, generator)
        prepared = flow.prepare(flow.condition(features, length), length, drop=drop)
        loss = (weights * (flow.velocity(x, t, prepared) - (noise - x0)).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        optimiser.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(f"Pre-training loss became {value} at step {step}; lower pretrain.lr ({config.lr}).")
        on_step(step + 1, value)
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    flow.eval()
