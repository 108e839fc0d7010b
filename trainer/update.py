"""One iteration of windowed Fast-GRPO on a batch of groups; needs torch alone."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation.checkpoint import checksum
from foundation.conditions import Conditions
from foundation.model import FlowModel
from foundation.transitions import kl
from trainer.batch import IterationBatch, passes
from trainer.collective import Alone, Collective
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.ema import Ema
from trainer.errors import DivergenceError
from trainer.fast_grpo import normalised_log_ratio, policy_loss, trust_region_loss, velocity_kl
from trainer.group import Group
from trainer.invariants import check_groups, check_ratio
from trainer.replay import Replay, Stack, Step
from trainer.table import Advantages, RewardTable
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
        self.device = next(iter(self.parameters.values())).device
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
        rewards = RewardTable.of(batch.rewards, self.weights) if batch.ids else None
        table = rewards.advantages(config) if rewards else None
        tally = Tally(config.width)
        if table is not None:
            conditioned = {p: self._condition(group) for p, group in zip(batch.positions, batch.groups, strict=True)}
            for epoch in range(config.epochs):
                for index, positions in enumerate(batch.minibatches(config.minibatches)):
                    self._step(batch, positions, table, conditioned, tally, first=epoch == index == 0)
        self.at_version(self.version + 1)
        metrics = tally.metrics(self.ranks)
        metrics["samples"] = table.samples if table else 0
        metrics["masked"] = int((~table.mask).sum()) if table else 0
        return {**metrics, **(rewards.describe(config) if rewards else {"reward_spread": float("nan")})}

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
        config = self.algorithm
        rows = [position for position, _ in run]
        groups = [group for _, group in run]
        stack = Stack.of(groups, self.device)
        advantage, mask = (part[rows].float().to(self.device) for part in (table.values, table.mask))
        fresh = torch.tensor([[group.version == self.version] for group in groups], device=self.device) * mask
        conditions = Conditions.cat([conditioned[row] for row in rows])
        policy = Replay(self.model, conditions, stack, config, config.cfg_scale)
        anchor = None
        if self.reference is not None:
            with torch.no_grad():
                anchor = Replay(self.reference, conditions, stack, config, config.guided)
        loss = torch.zeros((), device=self.device)
        mismatch = torch.zeros(1, dtype=torch.float64)
        for k in range(config.width):
            step = policy.step(k)
            old = stack.log_probs[k]
            divergence = kl(step.transition, policy.old(k, step.transition.std)).view_as(old)
            per_sample, limited = surrogate(config, step, old, advantage, divergence)
            distance = None
            if anchor is not None:
                with torch.no_grad():
                    target = anchor.step(k)
                distance = reference_distance(config, step, target).view_as(old)
                per_sample = per_sample + config.kl_beta * distance
            loss = loss + (per_sample * mask).sum() / (count * config.width)
            delta = step.log_prob.detach() - old
            mismatch = torch.maximum(mismatch, (delta.abs() * fresh).max().double().cpu().reshape(1))
            tally.window_step(k, delta, limited, divergence.detach(), distance, mask)
        loss.backward()
        tally.evaluations(policy.nfe, anchor.nfe if anchor else 0)
        return loss.detach().double().cpu().reshape(1), mismatch

    def _condition(self, group: Group) -> Conditions:
        arrays = (group.conditions[name][None] for name in ("video", "text", "sync"))
        features = Conditions(*(torch.tensor(array, dtype=torch.float32, device=self.device) for array in arrays))
        with torch.no_grad():
            return self.model.condition(features, group.latents.shape[-1])


def surrogate(
    config: AlgorithmConfig, step: Step, old: Tensor, advantage: Tensor, divergence: Tensor
) -> tuple[Tensor, Tensor]:
    """Policy loss (g, N) of one window step under the recipe's trust region, and where that region was active."""
    new = step.log_prob
    if config.trust_region == "kl":
        loss = trust_region_loss(new, old, advantage, divergence, config.kl_limit, "none")
        return loss, divergence.detach() >= config.kl_limit
    scale = 1.0
    if config.trust_region == "ratio_norm":
        new = normalised_log_ratio(new, old, divergence, step.transition.std)
        old, scale = torch.zeros_like(old), 1 / step.dt
    loss = policy_loss(new, old, advantage, config.clip_range, "none")
    return loss * scale, (torch.exp(new - old) - 1).abs().detach() > config.clip_range


def reference_distance(config: AlgorithmConfig, step: Step, target: Step) -> Tensor:
    """Distance (g * N,) of one window step to the reference's, in the recipe's space."""
    if config.kl_space == "v":
        return velocity_kl(step.velocity, target.velocity)
    distance = kl(step.transition, target.transition)
    return distance if config.kl_space == "x" else distance * step.dt
