"""The hybrid ODE-SDE sampler: a deterministic prefix, a stochastic window, a deterministic tail.

All members of a group start from one noise, so everything up to and including the velocity at the window's first step
is the same for them and is evaluated once per group (PrismAudio Fast-GRPO; sharing as in its grpo/fast_grpo).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation import grids
from foundation.errors import SamplingError
from foundation.tails import euler, solver
from foundation.transitions import kernel, log_density

# (x (P * copies, C, L), sigma, copies) -> velocity; each prompt's conditions stand `copies` times in a row.
Velocity = Callable[[Tensor, float, int], Tensor]


@dataclass(frozen=True)
class Rollout:
    """Samples of P groups with N members and what replay needs of them.

    latents: (w + 1, P, N, C, L) states at the window's boundaries. log_probs: (w, P, N), mean over elements.
    final: (P, N, C, L) at sigma 0. nfe: velocity evaluations of the whole call, a guided pair counted as two.
    """

    latents: Tensor
    log_probs: Tensor
    final: Tensor
    nfe: int

    @property
    def nfe_per_group(self) -> int:
        """Velocity evaluations spent on one group."""
        return self.nfe // self.final.shape[0]


class _Counted:
    """A velocity that counts its evaluations, sample by sample."""

    def __init__(self, velocity: Velocity, per_sample: int):
        self.velocity, self.per_sample, self.total = velocity, per_sample, 0

    def __call__(self, x: Tensor, sigma: float, copies: int) -> Tensor:
        self.total += self.per_sample * x.shape[0]
        return self.velocity(x, sigma, copies)


@dataclass(frozen=True)
class HybridSampler:
    """How to sample: the grid, the kernel inside the window and the solver after it.

    sigmas: (T + 1,) falling from 1 to 0. transition: a key of TRANSITIONS. tail: a key of TAILS.
    tail_steps: the span after the window is re-spaced to at most this many even steps; None keeps the grid.
    evaluations: network evaluations per velocity of one sample, 2 under guidance; only the count depends on it.
    """

    sigmas: np.ndarray
    transition: str = "flow_sde"
    noise_level: float = 0.7
    tail: str = "euler"
    tail_steps: int | None = None
    evaluations: int = 1

    def __post_init__(self) -> None:
        sigmas = np.asarray(self.sigmas, dtype=np.float64)
        if sigmas.ndim != 1 or len(sigmas) < 2 or sigmas[0] != 1 or sigmas[-1] != 0 or (np.diff(sigmas) >= 0).any():
            raise SamplingError(f"A grid must fall strictly from 1 to 0, got {sigmas}.")
        object.__setattr__(self, "sigmas", sigmas)
        kernel(self.transition)
        solver(self.tail)

    @property
    def steps(self) -> int:
        """Steps of the grid."""
        return len(self.sigmas) - 1

    def rollout(
        self, velocity: Velocity, noise: Tensor, members: int, window_start: int, window_size: int, draws: Tensor
    ) -> Rollout:
        """Sample `members` continuations of each of P prompts.

        noise: (P, C, L) initial state of each group. draws: (w, P, N, C, L) standard normal, see `member_noise`.
        Raises SamplingError for a window outside the grid, a step without density, or values that are not finite.
        """
        self._check(noise, members, window_start, window_size, draws)
        prompts, shape = noise.shape[0], noise.shape[1:]
        field, step = _Counted(velocity, self.evaluations), kernel(self.transition)
        s = self.sigmas
        x = euler(lambda x, sigma: field(x, sigma, 1), noise, s[: window_start + 1])

        states, log_probs = [x.repeat_interleave(members, dim=0)], []
        for k in range(window_size):
            sigma, sigma_next = float(s[window_start + k]), float(s[window_start + k + 1])
            copies = 1 if k == 0 else members
            transition = step(x, field(x, sigma, copies), sigma, sigma_next, self.noise_level, float(s[1]))
            if k == 0:
                transition = type(transition)(transition.mean.repeat_interleave(members, dim=0), transition.std)
            x = transition.draw(draws[k].flatten(0, 1))
            states.append(x)
            log_probs.append(log_density(x, transition))

        rest = grids.respace(s[window_start + window_size :], self.tail_steps)
        x = solver(self.tail)(lambda x, sigma: field(x, sigma, members), x, rest)
        if not torch.isfinite(x).all():
            raise SamplingError("The sampler produced NaN or infinite latents; the weights or conditions are broken.")
        return Rollout(
            latents=torch.stack(states).unflatten(1, (prompts, members)),
            log_probs=torch.stack(log_probs).unflatten(1, (prompts, members)),
            final=x.reshape(prompts, members, *shape),
            nfe=field.total,
        )

    def ode(self, velocity: Velocity, noise: Tensor, steps: int | None = None) -> Tensor:
        """Plain Euler from (B, C, L) noise to data: on `steps` even steps, or on this sampler's grid."""
        sigmas = self.sigmas if steps is None else grids.inference(steps)
        return euler(lambda x, sigma: velocity(x, sigma, 1), noise, sigmas)

    def _check(self, noise: Tensor, members: int, start: int, size: int, draws: Tensor) -> None:
        if size < 1 or start < 0 or start + size > self.steps:
            raise SamplingError(
                f"Window [{start}, {start + size}) does not lie within the {self.steps} steps of the grid."
            )
        expected = (size, noise.shape[0], members, *noise.shape[1:])
        if tuple(draws.shape) != expected:
            raise SamplingError(
                f"Expected draws of shape {expected} (window, prompts, members, C, L), got {tuple(draws.shape)}."
            )


def group_noise(seed: int, iteration: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """Initial noise of one group, float32 on the CPU; a pure function of its arguments."""
    return torch.randn(shape, generator=_generator("group", seed, iteration, index))


def member_noise(
    seed: int, iteration: int, index: int, window_size: int, members: int, shape: tuple[int, ...]
) -> Tensor:
    """Window draws (w, N, *shape) of one group, float32 on the CPU; a pure function of its arguments."""
    return torch.randn((window_size, members, *shape), generator=_generator("member", seed, iteration, index))


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator, so that every device and every retry sees the same draws."""
    digest = hashlib.blake2b("/".join([purpose, *map(str, numbers)]).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
