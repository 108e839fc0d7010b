"""One reverse step from sigma to sigma_next: Gaussian kernels shared by sampling and replay.

sigma falls from 1 (noise) to 0 (data); v = eps - x0, so x0_hat = x - sigma v and eps_hat = x + (1 - sigma) v.
Every kernel is `(x, v, sigma, sigma_next, noise_level) -> Transition` on floats; a noise level of 0 gives the plain ODE
step in each of them. `transition` picks one by name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from foundation.errors import SamplingError

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Transition:
    """Gaussian over the next state: mean (B, ...), and one std, sqrt(-dt) included (0: deterministic)."""

    mean: Tensor
    std: float

    def draw(self, noise: Tensor) -> Tensor:
        """mean + std * noise; noise broadcasts against the mean."""
        return self.mean + self.std * noise

    def log_prob(self, x_next: Tensor, reduce: Reduction = "mean") -> Tensor:
        """Log-density of (B, ...), mean or sum over the elements of each sample: (B,).

        The mean is the convention of Flow-GRPO and PrismAudio: the ratio it gives is the geometric mean over elements.
        Raises SamplingError where std is 0, since there is no density then.
        """
        if not self.std > 0:
            raise SamplingError(
                f"A transition with std {self.std} has no density; use a positive noise level and keep the window off "
                "a last step to sigma 0."
            )
        squares = _reduce((x_next - self.mean).square(), reduce)
        constant = math.log(self.std) + 0.5 * math.log(2 * math.pi)
        return -squares / (2 * self.std**2) - constant * (1 if reduce == "mean" else x_next[0].numel())


Kernel = Callable[[Tensor, Tensor, float, float, float], Transition]


def ode_step(x: Tensor, v: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Euler step of the probability-flow ODE."""
    return x + (sigma_next - sigma) * v


def flow_sde(x: Tensor, v: Tensor, sigma: float, sigma_next: float, noise_level: float) -> Transition:
    """Flow-GRPO and PrismAudio: diffusion a sqrt(sigma / (1 - sigma)), one Euler-Maruyama step.

    At sigma = 1 the denominator, a pole there, uses sigma_next.
    """
    diffusion = noise_level * math.sqrt(sigma / (1 - (sigma_next if sigma >= 1 else sigma)))
    return _euler_maruyama(x, v, sigma, sigma_next, diffusion)


def dance_sde(x: Tensor, v: Tensor, sigma: float, sigma_next: float, noise_level: float) -> Transition:
    """DanceGRPO: constant diffusion, one Euler-Maruyama step."""
    return _euler_maruyama(x, v, sigma, sigma_next, noise_level)


def cps(x: Tensor, v: Tensor, sigma: float, sigma_next: float, noise_level: float) -> Transition:
    """FlowCPS: a share sin(a pi / 2) of the next noise is fresh and the marginal variance is kept; a in [0, 1]."""
    angle = noise_level * math.pi / 2
    return _renoise(x, v, sigma, sigma_next, math.cos(angle), math.sin(angle))


def exponential(x: Tensor, v: Tensor, sigma: float, sigma_next: float, noise_level: float) -> Transition:
    """Flow-SDE integrated exactly with x0_hat frozen over the step; has no pole and keeps the marginals.

    The noise estimate then follows an Ornstein-Uhlenbeck process with correlation
    rho = (odds(sigma_next) / odds(sigma)) ** (a^2 / 2), odds(s) = s / (1 - s); rho composes over sub-steps.
    """
    if noise_level == 0:
        rho = 1.0
    elif sigma >= 1:
        rho = 0.0
    else:
        rho = ((sigma_next / (1 - sigma_next)) / (sigma / (1 - sigma))) ** (noise_level**2 / 2)
    return _renoise(x, v, sigma, sigma_next, rho, math.sqrt(1 - rho**2))


def exponential_dance(x: Tensor, v: Tensor, sigma: float, sigma_next: float, noise_level: float) -> Transition:
    """Dance-SDE integrated exactly: rho = exp(-a^2 / 2 (1 / sigma_next - 1 / sigma))."""
    if noise_level == 0:
        rho = 1.0
    elif sigma_next == 0:
        rho = 0.0
    else:
        rho = math.exp(-(noise_level**2) / 2 * (1 / sigma_next - 1 / sigma))
    return _renoise(x, v, sigma, sigma_next, rho, math.sqrt(1 - rho**2))


TRANSITIONS: dict[str, Kernel] = {
    "flow_sde": flow_sde,
    "dance_sde": dance_sde,
    "cps": cps,
    "exponential": exponential,
    "exponential_dance": exponential_dance,
}


def transition(
    kind: str, x: Tensor, v: Tensor, sigma: float | Tensor, sigma_next: float | Tensor, noise_level: float
) -> Transition:
    """The transition of a state (B, ...) with velocity v; the same function samples and replays.

    sigma > sigma_next >= 0 may be 0-d tensors. Raises SamplingError for an unknown kind or levels out of order.
    """
    if kind not in TRANSITIONS:
        raise SamplingError(f"Unknown transition {kind!r}; choose one of {', '.join(sorted(TRANSITIONS))}.")
    sigma, sigma_next = float(sigma), float(sigma_next)
    if not 1 >= sigma > sigma_next >= 0:
        raise SamplingError(f"A step must fall within 1 >= sigma > sigma_next >= 0, got {sigma:g} to {sigma_next:g}.")
    return TRANSITIONS[kind](x, v, sigma, sigma_next, noise_level)


def kl(new: Transition, old: Transition, reduce: Reduction = "mean") -> Tensor:
    """Exact KL divergence of two transitions of one std, mean or sum over the elements of each sample: (B,).

    |mu - mu_old|^2 / (2 std^2). Raises SamplingError unless both have the same positive std.
    """
    if not new.std > 0 or new.std != old.std:
        raise SamplingError(f"The KL between transitions needs one positive std for both, got {new.std} and {old.std}.")
    return _reduce((new.mean - old.mean).square(), reduce) / (2 * new.std**2)


def _reduce(squares: Tensor, reduce: Reduction) -> Tensor:
    flat = squares.flatten(1)
    return flat.mean(1) if reduce == "mean" else flat.sum(1)


def _euler_maruyama(x: Tensor, v: Tensor, sigma: float, sigma_next: float, diffusion: float) -> Transition:
    """x + v dt + g^2 / (2 sigma) eps_hat dt with std g sqrt(-dt), g = `diffusion`."""
    dt = sigma_next - sigma
    score = diffusion**2 / (2 * sigma)
    mean = x * (1 + score * dt) + v * ((1 + score * (1 - sigma)) * dt)
    return Transition(mean, diffusion * math.sqrt(-dt))


def _renoise(x: Tensor, v: Tensor, sigma: float, sigma_next: float, kept: float, fresh: float) -> Transition:
    """(1 - sigma') x0_hat + sigma' kept eps_hat with std sigma' fresh, where kept^2 + fresh^2 = 1."""
    data, noise = 1 - sigma_next, sigma_next * kept
    mean = x * (data + noise) + v * (noise * (1 - sigma) - data * sigma)
    return Transition(mean, sigma_next * fresh)
