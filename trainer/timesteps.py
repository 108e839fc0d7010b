"""Schedules of supervised training: noise levels, learning rate and averaging, as pure functions.

Formulas and constants as in Stability-AI/stable-audio-tools (inference/sampling.py, training/utils.py), which
PrismAudio's pre-training uses, and lucidrains/ema-pytorch.
"""

from typing import Literal

import torch
from torch import Tensor

Sampler = Literal["trunc_logit_normal", "logit_normal", "uniform"]
LEFT = 0.075


def noise_levels(normals: Tensor, sampler: Sampler = "trunc_logit_normal") -> Tensor:
    """Noise levels t in [0, 1] (1 = noise) out of standard normal draws of any shape.

    trunc_logit_normal: 1 - s, where s is a logit-normal variable cut at 0.075 from below and stretched to [0, 1).
    logit_normal: sigmoid of the draw. uniform: the draw's quantile.
    """
    z = normals.double()
    if sampler == "uniform":
        t = torch.special.ndtr(z)
    elif sampler == "logit_normal":
        t = torch.sigmoid(z)
    else:
        lowest = torch.special.ndtr(torch.logit(z.new_tensor(LEFT)))
        share = lowest + (1 - lowest) * torch.special.ndtr(z)
        t = 1 - (torch.sigmoid(torch.special.ndtri(share)) - LEFT) / (1 - LEFT)
    return t.to(normals.dtype)


def inverse_lr(step: int, lr: float, inv_gamma: float = 1e5, power: float = 0.5, warmup: float = 0.99) -> float:
    """Learning rate of step 0, 1, ...: lr (1 + step / inv_gamma)^-power, times the rise 1 - warmup^(step + 1)."""
    return lr * (1 + step / inv_gamma) ** -power * (1 - warmup ** (step + 1))


def ema_decay(updates: int, beta: float = 0.9999, power: float = 0.75, after: int = 1) -> float:
    """Weight of the old average at the optimiser step number `updates` = 1, 2, ...

    The first after + 2 steps only copy the weights; then 1 - (updates - after)^-power, at most beta.
    """
    return 0.0 if updates <= after + 2 else min(beta, 1 - (updates - after) ** -power)
