"""Samples a task with the real model: conditions, hybrid sampler, codec. Needs torch, not Ray."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from actors.messages import Prompt, RolloutTask
from actors.rollout import RolloutError
from foundation.build import load_foundation
from foundation.checkpoint import checksum
from foundation.codec import Codec
from foundation.conditions import Conditions
from foundation.dit import Prepared
from foundation.grids import grid
from foundation.model import FlowModel
from foundation.output import limit_peak
from foundation.sampler import HybridSampler, group_noise, member_noise
from trainer.config import AlgorithmConfig
from trainer.group import Group


def make_sampler(algorithm: AlgorithmConfig) -> HybridSampler:
    """The sampler an algorithm section describes."""
    return HybridSampler(
        sigmas=grid(algorithm.grid, algorithm.steps),
        transition=algorithm.transition,
        noise_level=algorithm.noise_level,
        tail=algorithm.tail,
        tail_steps=algorithm.tail_steps,
        evaluations=1 if algorithm.cfg_scale == 1.0 else 2,
    )


def load_generator(path: str, algorithm: AlgorithmConfig, device: str = "cpu", threads: int = 1) -> "FlowGenerator":
    """The generator of a checkpoint file; raises CheckpointError."""
    found = load_foundation(path)
    return FlowGenerator(found.flow, found.codec, algorithm, device, threads)


class FlowGenerator:
    """A SampleGenerator (`actors.rollout`) around a flow model and a codec on one device."""

    def __init__(
        self, model: FlowModel, codec: Codec, algorithm: AlgorithmConfig, device: str = "cpu", threads: int = 1
    ) -> None:
        torch.set_num_threads(threads)
        self.sample_rate = codec.sample_rate
        self._model = model.eval().requires_grad_(False).to(device)
        self._parameters = model.trainable()
        self._codec = codec
        self._algorithm = algorithm
        self._sampler = make_sampler(algorithm)
        self._device = device

    def load(self, params: Mapping[str, np.ndarray]) -> str:
        """Copy the learner's parameters in; returns the checksum of the model's values under those names.

        Raises RolloutError naming what is missing, unexpected or of another shape.
        """
        shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        wrong = {name for name in shapes.keys() & params.keys() if shapes[name] != params[name].shape}
        if wrong or shapes.keys() != params.keys():
            raise RolloutError(
                "Published weights do not fit the rollout model: missing "
                f"{_some(shapes.keys() - params.keys())}, unexpected {_some(params.keys() - shapes.keys())}, "
                f"misshaped {_some(wrong)}. Learner and rollout actors must be built from one checkpoint."
            )
        for name, parameter in self._parameters.items():
            # numpy views of the object store are read-only, which torch.from_numpy warns about; copyto only reads them.
            parameter.copy_(torch.tensor(params[name]))
        return checksum({name: parameter.cpu().numpy() for name, parameter in self._parameters.items()})

    @torch.inference_mode()
    def generate(self, task: RolloutTask, weights_checksum: str) -> tuple[list[Group], np.ndarray]:
        """Groups and waveforms (G, N, 2, S) of a task; a pure function of the task and the loaded weights."""
        config, window = self._algorithm, task.window
        shape = (self._codec.channels, self.frames(task.prompts[0]))
        noise = torch.stack([group_noise(task.seed, task.iteration, index, shape) for index in task.indices])
        draws = torch.stack(
            [
                member_noise(task.seed, task.iteration, index, window.size, config.group_size, shape)
                for index in task.indices
            ],
            dim=1,
        )
        rollout = self._sampler.rollout(
            self._velocity(task.prompts, shape[1]),
            noise.to(self._device),
            config.group_size,
            window.start,
            window.size,
            draws.to(self._device),
        )
        latents = rollout.latents.cpu().numpy()
        log_probs = rollout.log_probs.cpu().numpy()
        groups = [
            Group(
                id=name,
                iteration=task.iteration,
                index=index,
                clip_id=prompt.clip_id,
                version=task.version,
                weights_checksum=weights_checksum,
                window=window,
                sigmas=self._sampler.sigmas,
                conditions=prompt.conditions,
                latents=np.ascontiguousarray(latents[:, place]),
                log_probs=np.ascontiguousarray(log_probs[:, place]),
                nfe_rollout=rollout.nfe_per_group,
            )
            for place, (name, index, prompt) in enumerate(zip(task.group_ids, task.indices, task.prompts, strict=True))
        ]
        decoded = limit_peak(self._codec.decode(rollout.final.flatten(0, 1)))
        return groups, decoded.unflatten(0, rollout.final.shape[:2]).cpu().numpy()

    def frames(self, prompt: Prompt) -> int:
        """Latent frames of a prompt's clip."""
        return round(prompt.reference.seconds * self._codec.sample_rate / self._codec.hop)

    def _velocity(self, prompts: tuple[Prompt, ...], length: int) -> Callable[[Tensor, float, int], Tensor]:
        features = Conditions(
            *(
                torch.tensor(np.stack([prompt.conditions[name] for prompt in prompts]), device=self._device)
                for name in ("video", "text", "sync")
            )
        )
        conditioned = self._model.condition(features, length)
        prepared = self._model.prepare(conditioned, length, self._algorithm.cfg_scale)
        widened: dict[int, Prepared] = {}

        def velocity(x: Tensor, sigma: float, copies: int) -> Tensor:
            if copies not in widened:
                widened[copies] = prepared.repeat_interleave(copies)
            return self._model.velocity(x, sigma, widened[copies])

        return velocity


def _some(names: set[str] | frozenset[str]) -> str:
    shown = sorted(names)[:3]
    more = len(names) - len(shown)
    return (", ".join(shown) + (f" and {more} more" if more else "")) or "none"
