"""The hybrid ODE-SDE sampler: a deterministic prefix, a stochastic window, a deterministic tail.

All members of an item start from one noise, so everything up to and including the velocity at the window's first step
is the same for them and is evaluated once per item (PrismAudio Fast-GRPO, FunAudioLLM/ThinkSound:grpo/fast_grpo; the
shared first window step is our own).
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
from foundation.transitions import transition

# (x, sigma) -> velocity of x's shape; sigma is a 0-d tensor. The rows of x are either the B items or B * members.
Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class WindowRecord:
    """What replay needs of a window, rows in item-fastest order: row m * B + b is member m of item b.

    latents: (w + 1, B * members, ...) states at the window's boundaries. means: (w, B * members, ...) of the
    transitions that drew them. log_probs: (w, B * members), mean over elements. sigmas: (w + 1,) float64 levels at the
    boundaries. rows: states the velocity was asked for in the whole call.
    """

    latents: Tensor
    means: Tensor
    log_probs: Tensor
    sigmas: np.ndarray
    rows: int


class _Counted:
    """A velocity field on floats that counts the rows it was asked for."""

    def __init__(self, velocity: Velocity):
        self.velocity, self.rows = velocity, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.rows += x.shape[0]
        return self.velocity(x, torch.tensor(sigma, dtype=x.dtype, device=x.device))


def hybrid_sample(
    velocity: Velocity,
    x: Tensor,
    sigmas: np.ndarray | Tensor,
    window: tuple[int, int],
    kind: str,
    noise_level: float,
    members: int = 1,
    noise: Tensor | None = None,
    tail: str = "euler",
    tail_steps: int | None = None,
) -> tuple[Tensor, WindowRecord]:
    """Sample `members` continuations of each of B items from sigma = 1 to 0.

    x: (B, ...) initial noise. sigmas: (T + 1,) falling from 1 to 0. window: (start, width) of the stochastic steps.
    kind, noise_level: of `foundation.transitions.transition`. noise: (width, B * members, ...) standard normal draws in
    item-fastest order; drawn from torch's generator when None. tail: a key of `foundation.tails.TAILS`; the span after
    the window is re-spaced to at most tail_steps even steps, None keeps the grid.
    Returns the final states (B * members, ...) in item-fastest order and the window's record. Raises SamplingError for
    a grid, window or noise that does not fit, a step without density, or states that are not finite.
    """
    s = _grid(sigmas)
    start, width = _window(window, len(s) - 1)
    shape = (width, x.shape[0] * members, *x.shape[1:])
    draws = torch.randn(shape, dtype=x.dtype, device=x.device) if noise is None else noise
    if tuple(draws.shape) != shape:
        raise SamplingError(f"Expected noise of shape {shape} (width, items * members, ...), got {tuple(draws.shape)}.")
    field = _Counted(velocity)
    x = euler(field, x, s[: start + 1])

    latents, means, log_probs = [_tile(x, members)], [], []
    for k in range(width):
        sigma, sigma_next = float(s[start + k]), float(s[start + k + 1])
        step = transition(kind, x, field(x, sigma), sigma, sigma_next, noise_level)
        if k == 0:
            step = type(step)(_tile(step.mean, members), step.std)
        x = step.draw(draws[k])
        latents.append(x)
        means.append(step.mean)
        log_probs.append(step.log_prob(x))

    x = solver(tail)(field, x, grids.respace(s[start + width :], tail_steps))
    if not torch.isfinite(x).all():
        raise SamplingError("The sampler produced NaN or infinite latents; the weights or conditions are broken.")
    edges = s[start : start + width + 1]
    return x, WindowRecord(torch.stack(latents), torch.stack(means), torch.stack(log_probs), edges, field.rows)


def ode_sample(velocity: Velocity, x: Tensor, sigmas: np.ndarray | Tensor) -> Tensor:
    """Plain Euler steps of (B, ...) noise down a grid."""
    return euler(_Counted(velocity), x, _grid(sigmas))


def group_noise(seed: int, iteration: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """Initial noise of one group, float32 on the CPU; a pure function of its arguments."""
    return torch.randn(shape, generator=_generator("group", seed, iteration, index))


def member_noise(
    seed: int, iteration: int, index: int, window_size: int, members: int, shape: tuple[int, ...]
) -> Tensor:
    """Window draws (w, N, *shape) of one group, float32 on the CPU; a pure function of its arguments."""
    return torch.randn((window_size, members, *shape), generator=_generator("member", seed, iteration, index))


def _grid(sigmas: np.ndarray | Tensor) -> np.ndarray:
    s = np.asarray(sigmas.cpu() if isinstance(sigmas, Tensor) else sigmas, dtype=np.float64)
    if s.ndim != 1 or len(s) < 2 or s[0] != 1 or s[-1] != 0 or (np.diff(s) >= 0).any():
        raise SamplingError(f"A grid must fall strictly from 1 to 0, got {s}.")
    return s


def _window(window: tuple[int, int], steps: int) -> tuple[int, int]:
    start, width = window
    if width < 1 or start < 0 or start + width > steps:
        raise SamplingError(f"Window [{start}, {start + width}) does not lie within the {steps} steps of the grid.")
    return start, width


def _tile(x: Tensor, members: int) -> Tensor:
    return x.repeat(members, *[1] * (x.dim() - 1))


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator, so that every device and every retry sees the same draws."""
    digest = hashlib.blake2b("/".join([purpose, *map(str, numbers)]).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
