"""One iteration of windowed Fast-GRPO on a batch of groups; needs torch alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation.checkpoint import checksum
from foundation.conditions import Conditions
from foundation.execution import ExecutionConfig, execute
from foundation.model import FlowModel
from foundation.transitions import kl
from trainer.batch import IterationBatch, Part, parts
from trainer.collective import Alone, Collective
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.ema import Ema
from trainer.errors import DivergenceError
from trainer.fast_grpo import normalised_log_ratio, policy_loss, trust_region_loss, velocity_kl
from trainer.group import Group
from trainer.invariants import RATIO_TOLERANCE, check_groups, check_ratio
from trainer.reference import Place, Reference
from trainer.replay import Replay, Stack, Step
from trainer.table import Advantages, RewardTable
from trainer.tally import Tally
from trainer.weights import export

KNOWN_VERSIONS = 64
# Where the reference's transitions and velocities of a pass are found, see `Part.key`.
Targets = dict[tuple[tuple[int, ...], int], list[Step]]


class Learner:
    """The policy, its optimiser and its average. `version` counts finished iterations.

    Trains the DiT's parameters, or its adapters where there are some; the conditioners stay frozen. With kl_beta > 0
    the model as given here, before anything is restored, is the reference; where it is kept says `reference`
    (`trainer.reference.Reference`). weights: {reward dimension: weight}. Parameters, their average and everything from
    the velocity on are float32 whatever `execution` says.
    """

    def __init__(
        self,
        model: FlowModel,
        algorithm: AlgorithmConfig,
        optimiser: OptimiserConfig,
        weights: Mapping[str, float],
        ranks: Collective | None = None,
        execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008  (immutable)
        reference: Place = "device",
    ):
        self.model = model.eval().requires_grad_(False)
        self.reference = Reference(model, reference) if algorithm.kl_beta > 0 else None
        for each in (model, self.reference.model if self.reference else model):
            execute(each, execution)
        self.tolerance = algorithm.ratio_tolerance or RATIO_TOLERANCE[execution.precision]
        self.algorithm = algorithm
        self.settings = optimiser
        self.weights = dict(weights)
        self.ranks: Collective = ranks or Alone()
        self.parameters = model.trainable()
        self.device = next(iter(self.parameters.values())).device
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = torch.zeros_like(parameter)
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=optimiser.lr,
            betas=optimiser.betas,
            weight_decay=optimiser.weight_decay,
            eps=optimiser.eps,
            # Fused needs no temporary copy of the parameters, but rounds differently.
            **({"fused": True} if self.device.type == "cuda" else {"foreach": True}),
        )
        self.ema = Ema(self.parameters, optimiser.ema)
        self.checksums: dict[int, str] = {}
        self.at_version(0)

    def export(self) -> dict[str, np.ndarray]:
        """The trained parameters of this version by name, as `trainer.weights` sends them."""
        return self._exported

    def at_version(self, version: int) -> None:
        """Declare the current parameters to be `version` and remember their checksum."""
        self.version = version
        self._exported = export(self.model)
        self.checksums[version] = checksum(self._exported)
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
            steps = [
                (positions, list(parts(batch.local(positions), config.groups_per_pass, config.members)))
                for positions in batch.minibatches(config.minibatches)
                if table.mask[positions.start : positions.stop].any()
            ]
            targets = self._targets([part for _, passes in steps for part in passes], conditioned, tally)
            for epoch in range(config.epochs):
                for index, (positions, passes) in enumerate(steps):
                    self._step(batch, positions, passes, table, conditioned, targets, tally, epoch == index == 0)
        self.at_version(self.version + 1)
        metrics = tally.metrics(self.ranks)
        metrics["samples"] = table.samples if table else 0
        metrics["masked"] = int((~table.mask).sum()) if table else 0
        return {**metrics, **(rewards.describe(config) if rewards else {"reward_spread": float("nan")})}

    def _step(
        self,
        batch: IterationBatch,
        positions: range,
        passes: list[Part],
        table: Advantages,
        conditioned: Mapping[int, Conditions],
        targets: Targets,
        tally: Tally,
        first: bool,
    ) -> None:
        count = int(table.mask[positions.start : positions.stop].sum())
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        torch._foreach_zero_(gradients)
        mismatch = torch.zeros(1, dtype=torch.float64)
        loss = torch.zeros(1, dtype=torch.float64)
        for part in passes:
            share, differs = self._pass(part, table, conditioned, targets.get(part.key), count, tally)
            loss += share
            mismatch = torch.maximum(mismatch, differs)
        if first:
            self.ranks.max_(mismatch)
            check_ratio(mismatch.item(), self.tolerance, batch.iteration)
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
        part: Part,
        table: Advantages,
        conditioned: Mapping[int, Conditions],
        targets: list[Step] | None,
        count: int,
        tally: Tally,
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of some members; returns their loss and largest on-policy |log ratio|."""
        config = self.algorithm
        rows = list(part.positions)
        advantage, mask = (t[rows][:, part.members].float().to(self.device) for t in (table.values, table.mask))
        fresh = torch.tensor([[group.version == self.version] for group in part.groups], device=self.device) * mask
        policy = self._replay(self.model, part, conditioned, config.cfg_scale)
        loss = torch.zeros((), device=self.device)
        mismatch = torch.zeros(1, dtype=torch.float64)
        for k in range(config.width):
            step = policy.step(k)
            old = policy.stack.log_probs[k]
            divergence = kl(step.transition, policy.old(k, step.transition.std)).view_as(old)
            per_sample, limited = surrogate(config, step, old, advantage, divergence)
            distance = None
            if targets is not None:
                distance = reference_distance(config, step, targets[k]).view_as(old)
                per_sample = per_sample + config.kl_beta * distance
            loss = loss + (per_sample * mask).sum() / (count * config.width)
            delta = step.log_prob.detach() - old
            mismatch = torch.maximum(mismatch, (delta.abs() * fresh).max().double().cpu().reshape(1))
            tally.window_step(k, delta, limited, divergence.detach(), distance, mask)
        loss.backward()
        tally.evaluations(policy.nfe, 0)
        return loss.detach().double().cpu().reshape(1), mismatch

    @torch.no_grad()
    def _targets(self, passes: list[Part], conditioned: Mapping[int, Conditions], tally: Tally) -> Targets:
        """The reference's steps of every pass, all in one stretch: they are the same in every epoch, and small."""
        found: Targets = {}
        if self.reference is None:
            return found
        with self.reference.ready() as model:
            for part in passes:
                anchor = self._replay(model, part, conditioned, self.algorithm.guided)
                found[part.key] = [anchor.step(k) for k in range(self.algorithm.width)]
                tally.evaluations(0, anchor.nfe)
        return found

    def _replay(self, model: FlowModel, part: Part, conditioned: Mapping[int, Conditions], guidance: float) -> Replay:
        stack = Stack.of(part.groups, self.device, part.members)
        conditions = Conditions.cat([conditioned[position] for position in part.positions])
        return Replay(model, conditions, stack, self.algorithm, guidance)

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
