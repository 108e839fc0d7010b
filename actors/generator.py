"""Samples a task with the real model: conditions, hybrid sampler, codec. Needs torch, not Ray."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from actors.messages import Prompt, RolloutTask
from actors.rollout import RolloutError
from foundation.build import load_codec, load_model
from foundation.checkpoint import checksum
from foundation.codec import Codec
from foundation.conditions import Conditions
from foundation.dit import Prepared
from foundation.execution import ExecutionConfig, execute
from foundation.grids import grid
from foundation.lora import LoraConfig, inject
from foundation.model import FlowModel
from foundation.output import limit_peak
from foundation.sampling import Velocity, group_noise, hybrid_sample, member_noise
from trainer import weights
from trainer.config import AlgorithmConfig
from trainer.group import Group


def load_generator(
    path: str,
    algorithm: AlgorithmConfig,
    device: str = "cpu",
    threads: int = 1,
    execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008  (immutable)
    lora: LoraConfig | None = None,
    samples_per_decode: int | None = None,
) -> "FlowGenerator":
    """The generator of what `foundation.build.load_model` reads; raises CheckpointError.

    execution, lora: the learner's.
    """
    model = load_model(path, device).model
    if lora is not None:
        inject(model, lora)
    return FlowGenerator(model, load_codec(path, device), algorithm, device, threads, execution, samples_per_decode)


class FlowGenerator:
    """A SampleGenerator (`actors.rollout`) around a flow model and a codec on one device."""

    def __init__(
        self,
        model: FlowModel,
        codec: Codec,
        algorithm: AlgorithmConfig,
        device: str = "cpu",
        threads: int = 1,
        execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008  (immutable)
        samples_per_decode: int | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.sample_rate = codec.sample_rate
        self._model = execute(model.eval().requires_grad_(False).to(device), execution)
        self._parameters = model.trainable()
        self._codec = codec.to(device) if isinstance(codec, nn.Module) else codec
        self._samples_per_decode = samples_per_decode
        self._algorithm = algorithm
        self._sigmas = grid(algorithm.grid, algorithm.steps)
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
        weights.load(self._parameters, params)
        return checksum(weights.export(self._model))

    @torch.inference_mode()
    def generate(self, task: RolloutTask, weights_checksum: str) -> tuple[list[Group], np.ndarray]:
        """Groups and waveforms (G, N, 2, S) of a task; a pure function of the task and the loaded weights."""
        config, window, prompts = self._algorithm, task.window, len(task.prompts)
        shape = (self._codec.channels, self.frames(task.prompts[0]))
        seeds = [(task.seed, task.iteration, index) for index in task.indices]
        # Items of the sampler are (prompt, initial noise) pairs, each continued by `branches` members.
        start = torch.stack([group_noise(*seed, (config.noises, *shape)) for seed in seeds]).flatten(0, 1)
        draws = torch.stack([member_noise(*seed, window.size, config.group_size, shape) for seed in seeds], dim=1)
        prepared = self._prepare(task.prompts, shape[1])
        final, record = hybrid_sample(
            self._velocity(prepared),
            start.to(self._device),
            self._sigmas,
            (window.start, window.size),
            config.transition,
            config.noise_level,
            config.branches,
            self._rows(draws).to(self._device),
            config.tail,
            config.tail_steps,
        )
        latents, means, log_probs = (
            self._members(rows, prompts).float().cpu().numpy()
            for rows in (record.latents, record.means, record.log_probs)
        )
        groups = [
            Group(
                id=name,
                iteration=task.iteration,
                index=index,
                clip_id=prompt.clip_id,
                version=task.version,
                weights_checksum=weights_checksum,
                window=window,
                sigmas=self._sigmas,
                noises=config.noises,
                conditions=prompt.conditions,
                latents=np.ascontiguousarray(latents[:, place]),
                means=np.ascontiguousarray(means[:, place]),
                log_probs=np.ascontiguousarray(log_probs[:, place]),
                nfe_rollout=record.rows * prepared.nfe // prompts,
            )
            for place, (name, index, prompt) in enumerate(zip(task.group_ids, task.indices, task.prompts, strict=True))
        ]
        finals = self._members(final[None], prompts)[0]
        waveforms = self._decode(finals.flatten(0, 1)).unflatten(0, finals.shape[:2])
        self._release()
        return groups, waveforms.numpy()

    def _decode(self, latents: Tensor) -> Tensor:
        """(R, C, L) to (R, 2, S) on the CPU."""
        limit = self._samples_per_decode or len(latents)
        return torch.cat([limit_peak(self._codec.decode(part)).float().cpu() for part in latents.split(limit)])

    def _release(self) -> None:
        """Give unused device memory back: the learner and the scorers may live on the same device."""
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()

    def _rows(self, members: Tensor) -> Tensor:
        """(w, P, N, ...) members to the sampler's item-fastest rows (w, branches * P * noises, ...)."""
        config = self._algorithm
        return members.unflatten(2, (config.noises, config.branches)).movedim(3, 1).flatten(1, 3)

    def _members(self, rows: Tensor, prompts: int) -> Tensor:
        """The inverse of `_rows`: members of one initial noise stand together."""
        config = self._algorithm
        return rows.unflatten(1, (config.branches, prompts, config.noises)).movedim(1, 3).flatten(2, 3)

    def frames(self, prompt: Prompt) -> int:
        """Latent frames of a prompt's clip."""
        return round(prompt.reference.seconds * self._codec.sample_rate / self._codec.hop)

    def _prepare(self, prompts: tuple[Prompt, ...], length: int) -> Prepared:
        features = Conditions(
            *(
                torch.tensor(np.stack([prompt.conditions[name] for prompt in prompts]), device=self._device)
                for name in ("video", "text", "sync")
            )
        )
        conditioned = self._model.condition(features, length)
        prepared = self._model.prepare(conditioned, length, self._algorithm.cfg_scale)
        return prepared.repeat_interleave(self._algorithm.noises)

    def _velocity(self, prepared: Prepared) -> Velocity:
        widened = {len(prepared): prepared}

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            if len(x) not in widened:
                widened[len(x)] = prepared.tile(len(x) // len(prepared))
            return self._model.velocity(x, sigma, widened[len(x)])

        return velocity


def _some(names: set[str] | frozenset[str]) -> str:
    shown = sorted(names)[:3]
    more = len(names) - len(shown)
    return (", ".join(shown) + (f" and {more} more" if more else "")) or "none"
