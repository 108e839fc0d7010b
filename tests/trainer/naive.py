"""The objective of one iteration sample by sample, step by step, written out with nothing shared."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from foundation.conditions import Conditions
from foundation.grids import grid
from foundation.model import FlowModel
from foundation.transitions import transition
from tests.trainer.builders import LENGTH, WEIGHTS
from trainer.config import AlgorithmConfig
from trainer.group import Group
from trainer.table import RewardTable


@dataclass
class Seen:
    """What each trained sample met, by window step; sizes: of what the trust region compares with its limit."""

    losses: list[Tensor] = field(default_factory=list)
    log_ratios: list[list[float]] = field(default_factory=list)
    divergences: list[list[float]] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    limited: list[bool] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)


def predict(
    model: FlowModel, group: Group, member: int, k: int, config: AlgorithmConfig, guidance: float
) -> tuple[Tensor, Tensor, float]:
    """Velocity, mean and std of one member's window step, each state (C, L)."""
    sigmas, at = grid(config.grid, config.steps), group.window.start + k
    inputs = Conditions(*(torch.from_numpy(group.conditions[n])[None] for n in ("video", "text", "sync")))
    prepared = model.prepare(model.condition(inputs, LENGTH), LENGTH, guidance)
    x = torch.from_numpy(group.latents[k][member])[None]
    v = model.velocity(x, float(sigmas[at]), prepared)
    found = transition(config.transition, x, v, sigmas[at], sigmas[at + 1], config.noise_level)
    return v[0], found.mean[0], found.std


def policy_term(
    config: AlgorithmConfig, x_next: Tensor, mean: Tensor, old: Tensor, std: float, dt: float, advantage: float
) -> tuple[Tensor, bool, float]:
    """-A r under the trust region, whether the region was active, and what it compared with its limit."""
    densities = [torch.distributions.Normal(centre, std).log_prob(x_next).mean() for centre in (mean, old)]
    ratio, weight = (densities[0] - densities[1]).exp(), 1.0
    if config.trust_region == "kl":
        divergence = ((mean - old) ** 2).mean().item() / (2 * std**2)
        outside = divergence >= config.kl_limit
        further = (ratio.item() > 1 and advantage > 0) or (ratio.item() < 1 and advantage < 0)
        return (0 * ratio if outside and further else -advantage * ratio), outside, divergence
    if config.trust_region == "ratio_norm":
        ratio, weight = ((x_next - old) / std * (mean - old)).mean().exp(), 1 / dt
    clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
    loss = weight * torch.maximum(-advantage * ratio, -advantage * clipped)
    return loss, clipped.item() != ratio.item(), abs(ratio.item() - 1)


def naive(
    model: FlowModel, sampled: FlowModel, reference: FlowModel, groups: list[Group], config: AlgorithmConfig
) -> Seen:
    """The policy is `model`, the samples were drawn under `sampled`, the distance is to `reference`."""
    table = RewardTable.of([group.rewards for group in groups], WEIGHTS).advantages(config)
    sigmas = grid(config.grid, config.steps)
    seen = Seen()
    for k in range(config.width):
        seen.log_ratios.append([])
        seen.divergences.append([])
        for row, group in enumerate(groups):
            dt = float(sigmas[group.window.start + k] - sigmas[group.window.start + k + 1])
            for member in range(config.group_size):
                if not table.mask[row, member]:
                    continue
                x_next = torch.from_numpy(group.latents[k + 1][member])
                v, mean, std = predict(model, group, member, k, config, config.cfg_scale)
                with torch.no_grad():
                    _, old, _ = predict(sampled, group, member, k, config, config.cfg_scale)
                    scale = config.cfg_scale if config.reference_cfg_scale is None else config.reference_cfg_scale
                    v_ref, mean_ref, _ = predict(reference, group, member, k, config, scale)
                advantage = table.values[row, member].item()
                loss, limited, size = policy_term(config, x_next, mean, old, std, dt, advantage)
                spaces = {
                    "v": ((v - v_ref) ** 2).mean(),
                    "x": ((mean - mean_ref) ** 2).mean() / (2 * std**2),
                    "x_no_dt": ((mean - mean_ref) ** 2).mean() / (2 * std**2 / dt),
                }
                distance = spaces[config.kl_space] if config.kl_beta else torch.zeros(())
                seen.losses.append(loss + config.kl_beta * distance)
                with torch.no_grad():
                    log_ratio = ((x_next - old) ** 2 - (x_next - mean) ** 2).mean() / (2 * std**2)
                    seen.divergences[k].append(((mean - old) ** 2).mean().item() / (2 * std**2))
                seen.log_ratios[k].append(log_ratio.item())
                seen.distances.append(distance.item())
                seen.limited.append(limited)
                seen.sizes.append(size)
    return seen
