"""Replays a window's stochastic steps under a model: the same transitions the sampler drew from, with gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation.conditions import Conditions
from foundation.grids import grid
from foundation.model import FlowModel
from foundation.transitions import Transition, transition
from trainer.config import AlgorithmConfig
from trainer.group import Group


@dataclass(frozen=True)
class Stack:
    """Groups of one shape: states (w + 1, g, N, C, L), old means (w, g, N, C, L) and log-densities (w, g, N)."""

    states: Tensor
    means: Tensor
    log_probs: Tensor
    start: int

    @classmethod
    def of(cls, groups: Sequence[Group], device: torch.device, members: slice = slice(None)) -> "Stack":
        """Some members, copied out of the groups, whose arrays may be read-only and badly aligned."""

        def together(name: str) -> Tensor:
            array = np.stack([getattr(group, name)[:, members] for group in groups], axis=1)
            return torch.tensor(array, dtype=torch.float32, device=device)

        return cls(together("latents"), together("means"), together("log_probs"), groups[0].window.start)


@torch.compiler.assume_constant_result
def _levels(name: str, steps: int) -> list[float]:
    return grid(name, steps).tolist()


@dataclass(frozen=True)
class Step:
    """One window step of g groups with N members each.

    transition, velocity: (g * N, C, L). log_prob: (g, N). dt: the step's size.
    """

    transition: Transition
    velocity: Tensor
    log_prob: Tensor
    dt: float


class Replay:
    """Steps of a window under one model and one guidance scale; `nfe` counts its velocity evaluations.

    Members that branch from one noise stand at one state when the window opens, so the first step costs one velocity
    per noise; autograd adds up the members' gradients. All later steps are evaluated together in one batch.
    """

    def __init__(
        self, model: FlowModel, conditions: Conditions, stack: Stack, config: AlgorithmConfig, guidance: float
    ):
        self.model = model
        self.stack = stack
        self.config = config
        self.members = stack.log_probs.shape[-1]
        self.branches = min(config.branches, self.members)
        self.sigmas = _levels(config.grid, config.steps)
        self.prepared = model.prepare(conditions, stack.states.shape[-1], guidance)
        self.later: Tensor | None = None
        self.nfe = 0

    def step(self, k: int) -> Step:
        """Step k of the window."""
        sigma, sigma_next = self.sigmas[self.stack.start + k], self.sigmas[self.stack.start + k + 1]
        x = self.stack.states[k].flatten(0, 1)
        velocity = self._first(sigma) if k == 0 else self._later()[k - 1]
        found = transition(self.config.transition, x, velocity, sigma, sigma_next, self.config.noise_level)
        log_prob = found.log_prob(self.stack.states[k + 1].flatten(0, 1))
        return Step(found, velocity, log_prob.view(-1, self.members), sigma - sigma_next)

    def _first(self, sigma: float) -> Tensor:
        opening = self.stack.states[0].flatten(0, 1)[:: self.branches]
        return self._velocity(opening, sigma, self.members // self.branches).repeat_interleave(self.branches, dim=0)

    def _later(self) -> Tensor:
        if self.later is None:
            rest = self.stack.states[1:-1]
            start, rows = self.stack.start, rest.shape[1] * rest.shape[2]
            sigmas = torch.tensor(self.sigmas[start + 1 : start + 1 + len(rest)], dtype=rest.dtype, device=rest.device)
            velocity = self._velocity(rest.flatten(0, 2), sigmas.repeat_interleave(rows), self.members, len(rest))
            self.later = velocity.unflatten(0, (len(rest), rows))
        return self.later

    def _velocity(self, x: Tensor, sigma: float | Tensor, copies: int, steps: int = 1) -> Tensor:
        self.nfe += len(x) * self.prepared.nfe
        return self.model.velocity(x, sigma, self.prepared.repeat_interleave(copies).tile(steps))

    def old(self, k: int, std: float) -> Transition:
        """The transition that drew step k."""
        return Transition(self.stack.means[k].flatten(0, 1), std)
