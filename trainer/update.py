"""One iteration of windowed Fast-GRPO on a batch of groups; needs torch alone."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation.checkpoint import checksum
from foundation.conditions import Conditions
from foundation.grids import grid
from foundation.model import FlowModel
from foundation.transitions import Transition, gaussian_kl, kernel, log_density
from trainer.advantages import Advantages, advantages
from trainer.batch import IterationBatch, passes
from trainer.collective import Alone, Collective
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.ema import Ema
from trainer.errors import DivergenceError
from trainer.group import Group
from trainer.invariants import check_groups, check_ratio
from trainer.objective import policy_loss, velocity_kl
from trainer.tally import Tally

KNOWN_VERSIONS = 64


class Learner:
    """The policy, its optimiser and its average. `version` counts finished iterations.

    Trains the DiT's parameters; the conditioners stay frozen. With kl_beta > 0 the model as given here, before any
    `load`, is copied as the reference. weights: {reward dimension: weight}.
    """

    def __init__(
        self,
        model: FlowModel,
        algorithm: AlgorithmConfig,
        optimiser: OptimiserConfig,
        weights: Mapping[str, float],
        ranks: Collective | None = None,
    ):
        self.model = model.eval().requires_grad_(False)
        self.reference = copy.deepcopy(model) if algorithm.kl_beta > 0 else None
        self.algorithm = algorithm
        self.settings = optimiser
        self.weights = dict(weights)
        self.ranks: Collective = ranks or Alone()
        self.parameters = model.trainable()
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = torch.zeros_like(parameter)
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(),
            lr=optimiser.lr,
            betas=optimiser.betas,
            weight_decay=optimiser.weight_decay,
            eps=optimiser.eps,
            foreach=True,
        )
        self.ema = Ema(self.parameters, optimiser.ema)
        self.checksums: dict[int, str] = {}
        self.at_version(0)

    def export(self) -> dict[str, np.ndarray]:
        """The trained parameters by state-dict name, as numpy views (copies only if they live on a device)."""
        return {name: parameter.detach().cpu().numpy() for name, parameter in self.parameters.items()}

    def at_version(self, version: int) -> None:
        """Declare the current parameters to be `version` and remember their checksum."""
        self.version = version
        self.checksums[version] = checksum(self.export())
        for old in [known for known in self.checksums if known > version or known <= version - KNOWN_VERSIONS]:
            del self.checksums[old]

    def update(self, batch: IterationBatch) -> dict[str, Any]:
        """Train on one batch and advance the version. Returns the metrics of the whole batch over all ranks.

        Raises InvariantError when the groups were not sampled by this policy, DivergenceError when a gradient is not
        finite (the parameters are then still those before the step).
        """
        config = self.algorithm
        check_groups(batch.groups, batch.iteration, self.version, self.checksums, config)
        # Known before any pass: every rank derives the same advantages from the rewards of all groups.
        table = advantages(batch.rewards, self.weights, config) if batch.ids else None
        tally = Tally(config.window_size)
        if table is not None:
            conditioned = {p: self._condition(group) for p, group in zip(batch.positions, batch.groups, strict=True)}
            for epoch in range(config.epochs):
                for index, positions in enumerate(batch.minibatches(config.minibatches)):
                    self._step(batch, positions, table, conditioned, tally, first=epoch == index == 0)
        self.at_version(self.version + 1)
        metrics = tally.metrics(self.ranks)
        metrics["samples"] = table.samples if table else 0
        metrics["masked"] = int((~table.mask).sum()) if table else 0
        return metrics

    def _step(
        self,
        batch: IterationBatch,
        positions: range,
        table: Advantages,
        conditioned: Mapping[int, Conditions],
        tally: Tally,
        first: bool,
    ) -> None:
        count = int(table.mask[positions.start : positions.stop].sum())
        if count == 0:
            return
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        torch._foreach_zero_(gradients)
        mismatch = torch.zeros(1, dtype=torch.float64)
        loss = torch.zeros(1, dtype=torch.float64)
        for run in passes(batch.local(positions), self.algorithm.groups_per_pass):
            part, differs = self._pass(run, table, conditioned, count, tally)
            loss += part
            mismatch = torch.maximum(mismatch, differs)
        if first:
            self.ranks.max_(mismatch)
            check_ratio(mismatch.item(), self.algorithm.ratio_tolerance, batch.iteration)
            tally.mismatch = mismatch.item()
        self.ranks.sum_(gradients)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.grad_clip)
        if not torch.isfinite(norm):
            raise DivergenceError(
                f"The gradient of iteration {batch.iteration}, groups {batch.ids[positions.start]} to "
                f"{batch.ids[positions.stop - 1]}, is not finite. Resume from the last checkpoint with a lower "
                "optimiser.lr or algorithm.noise_level."
            )
        self.optimiser.step()
        self.ema.update(self.parameters)
        tally.optimiser_step(loss, float(norm))

    def _pass(
        self,
        run: list[tuple[int, Group]],
        table: Advantages,
        conditioned: Mapping[int, Conditions],
        count: int,
        tally: Tally,
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of some groups of equal shapes; returns their loss and largest on-policy |log ratio|."""
        config, window = self.algorithm, run[0][1].window
        rows = [position for position, _ in run]
        groups = [group for _, group in run]
        states = self._tensor(np.stack([group.latents for group in groups], axis=1))
        old = self._tensor(np.stack([group.log_probs for group in groups], axis=1))
        advantage, mask = self._tensor(table.values[rows]), self._tensor(table.mask[rows])
        fresh = self._tensor(np.array([group.version == self.version for group in groups]))[:, None] * mask
        conditions = Conditions.cat([conditioned[row] for row in rows])
        policy = _Replay(self.model, conditions, window.start, states, config)
        anchor = None
        if self.reference is not None:
            with torch.no_grad():
                anchor = _Replay(self.reference, conditions, window.start, states, config)
        loss = torch.zeros((), device=states.device)
        mismatch = torch.zeros(1, dtype=torch.float64)
        for k in range(window.size):
            log_prob, transition, velocity = policy.step(k)
            result = policy_loss(log_prob, old[k], advantage, config.clip_range)
            per_sample, kl = result.per_sample, None
            if anchor is not None:
                with torch.no_grad():
                    _, target, target_velocity = anchor.step(k)
                in_means = config.kl_space == "mean"
                kl = gaussian_kl(transition, target) if in_means else velocity_kl(velocity, target_velocity)
                kl = kl.view_as(log_prob)
                per_sample = per_sample + config.kl_beta * kl
            loss = loss + (per_sample * mask).sum() / (count * window.size)
            delta = (log_prob.detach() - old[k]).abs()
            mismatch = torch.maximum(mismatch, (delta * fresh).max().double().cpu().reshape(1))
            tally.window_step(k, result, delta, kl, mask)
        loss.backward()
        tally.evaluations(policy.nfe, anchor.nfe if anchor else 0)
        return loss.detach().double().cpu().reshape(1), mismatch

    def _condition(self, group: Group) -> Conditions:
        features = Conditions(*(self._tensor(group.conditions[name])[None] for name in ("video", "text", "sync")))
        with torch.no_grad():
            return self.model.condition(features, group.latents.shape[-1])

    def _tensor(self, array: np.ndarray) -> Tensor:
        device = next(iter(self.parameters.values())).device
        return torch.tensor(array, dtype=torch.float32, device=device)


class _Replay:
    """Re-evaluates the window's transitions under a model.

    All members of a group stand at one state when the window opens, so the first step costs one velocity per group;
    autograd then adds up the members' gradients. Later steps cost one per member.
    """

    def __init__(self, model: FlowModel, conditions: Conditions, start: int, states: Tensor, config: AlgorithmConfig):
        self.model = model
        self.states = states
        self.members = states.shape[2]
        self.kernel = kernel(config.transition)
        self.noise_level = config.noise_level
        self.sigmas: list[float] = grid(config.grid, config.steps).tolist()
        self.start = start
        self.prepared = model.prepare(conditions, states.shape[-1], config.cfg_scale)
        self.widened = None
        self.nfe = 0

    def step(self, k: int) -> tuple[Tensor, Transition, Tensor]:
        """log-density (g, N), and transition and velocity of window step k for its g * N members."""
        sigma, sigma_next = self.sigmas[self.start + k], self.sigmas[self.start + k + 1]
        x = self.states[k].flatten(0, 1)
        if k == 0:
            at_group = self.model.velocity(self.states[0][:, 0], sigma, self.prepared)
            velocity = at_group.repeat_interleave(self.members, dim=0)
            self.nfe += len(at_group) * self.prepared.nfe
        else:
            self.widened = self.widened or self.prepared.repeat_interleave(self.members)
            velocity = self.model.velocity(x, sigma, self.widened)
            self.nfe += len(x) * self.prepared.nfe
        transition = self.kernel(x, velocity, sigma, sigma_next, self.noise_level, self.sigmas[1])
        log_prob = log_density(self.states[k + 1].flatten(0, 1), transition)
        return log_prob.view(-1, self.members), transition, velocity
