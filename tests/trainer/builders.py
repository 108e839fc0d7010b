"""A tiny model and groups sampled with it in this process."""

import numpy as np
import torch
from torch import Tensor

from foundation.checkpoint import checksum
from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.grids import grid
from foundation.model import FlowModel, initialise_unit_gain
from foundation.sampling import group_noise, hybrid_sample, member_noise
from trainer.config import AlgorithmConfig
from trainer.group import Group, group_id
from trainer.windows import Spreads, window

LENGTH = 8
DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial")
WEIGHTS: dict[str, float] = dict.fromkeys(DIMENSIONS, 1.0)
TINY = ModelConfig(latent_channels=3, width=32, depth=1, heads=1, video_dim=5, text_dim=4, sync_dim=6, sync_segment=4)


def algorithm(**changes) -> AlgorithmConfig:
    """A recipe small enough for tests, whatever the presets recommend."""
    small = {"group_size": 4, "prompts": 4, "steps": 6, "window_hi": 2, "tail_steps": 2, "window_policy": "uniform"}
    plain = {"trust_region": "ratio", "clip_range": 1e-3, "epochs": 1, "minibatches": 2}
    return AlgorithmConfig.model_validate({**small, **plain, **changes})


def tiny_model(seed: int = 0) -> FlowModel:
    """A randomly initialised flow model whose output depends on every input."""
    torch.manual_seed(seed)
    model = FlowModel(TINY)
    initialise_unit_gain(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.trainable().values():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return model.eval()


def features(iteration: int, index: int) -> dict[str, np.ndarray]:
    """Encoder features of one prompt."""
    random = np.random.default_rng([7, iteration, index])
    shapes = {"video": (2, TINY.video_dim), "text": (3, TINY.text_dim), "sync": (LENGTH, TINY.sync_dim)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def judge(final: np.ndarray) -> dict[str, np.ndarray]:
    """Four different rewards of (N, C, L) latents."""
    flat = final.reshape(len(final), -1).astype(np.float64)
    statistics = (flat.mean(1), flat.std(1), np.abs(flat).max(1), flat[:, 0])
    return {name: 1 / (1 + np.exp(-value)) for name, value in zip(DIMENSIONS, statistics, strict=True)}


@torch.no_grad()
def sample_groups(
    model: FlowModel,
    config: AlgorithmConfig,
    seed: int,
    iteration: int,
    version: int | None = None,
    spreads: Spreads | None = None,
) -> list[Group]:
    """The groups of one iteration under the model's current weights."""
    sigmas = grid(config.grid, config.steps)
    stretch = window(seed, iteration, config, spreads)
    shape = (TINY.latent_channels, LENGTH)
    weights = checksum({name: parameter.detach().numpy() for name, parameter in model.trainable().items()})
    groups = []
    for index in range(config.prompts):
        inputs = features(iteration, index)
        conditions = Conditions(*(torch.from_numpy(inputs[name])[None] for name in ("video", "text", "sync")))
        prepared = model.prepare(model.condition(conditions, LENGTH), LENGTH, config.cfg_scale)
        prepared = prepared.repeat_interleave(config.noises)
        draws = member_noise(seed, iteration, index, stretch.size, config.group_size, shape)
        by_noise = draws.unflatten(1, (config.noises, config.branches)).transpose(1, 2).flatten(1, 2)
        final, record = hybrid_sample(
            lambda x, sigma, p=prepared: model.velocity(x, sigma, p.tile(len(x) // len(p))),
            group_noise(seed, iteration, index, (config.noises, *shape)),
            sigmas,
            (stretch.start, stretch.size),
            config.transition,
            config.noise_level,
            config.branches,
            by_noise,
            config.tail,
            config.tail_steps,
        )

        def members(rows: Tensor) -> np.ndarray:
            """Sampler rows back to (..., N) with the branches of one noise together."""
            split = rows.unflatten(1, (config.branches, config.noises))
            return split.transpose(1, 2).flatten(1, 2).numpy()

        groups.append(
            Group(
                id=group_id(iteration, index),
                iteration=iteration,
                index=index,
                clip_id=f"clip{index}",
                version=iteration if version is None else version,
                weights_checksum=weights,
                window=stretch,
                sigmas=sigmas.astype(np.float32),
                noises=config.noises,
                conditions=inputs,
                latents=members(record.latents),
                means=members(record.means),
                log_probs=members(record.log_probs),
                nfe_rollout=record.rows * prepared.nfe,
                rewards=judge(members(final[None])[0]),
            )
        )
    return groups
