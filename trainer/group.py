"""The contract between rollout, rewards, buffer and learner: N samples of one prompt."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Window:
    """The stochastic steps start, start + 1, ..., start + size - 1 of a sampling grid."""

    start: int
    size: int

    @property
    def steps(self) -> range:
        """Indices of the stochastic steps."""
        return range(self.start, self.start + self.size)


@dataclass
class Group:
    """N samples of one prompt drawn inside one window. Arrays are float32 numpy, without a batch axis for the prompt.

    conditions: {"video": (Tv, Cv), "text": (Tt, Ct), "sync": (Ts, Cs)} encoder features of the prompt.
    noises: initial noises; members m N / noises ... (m + 1) N / noises - 1 branch from noise m, so they share the state
    at which the window opens.
    latents: (w + 1, N, C, L) states at the window's boundaries; latents[k + 1] was drawn from latents[k].
    means: (w, N, C, L) of the transitions that drew them, under the rollout's weights.
    log_probs: (w, N) Gaussian log-density (mean over elements) of each draw under the rollout's weights.
    rewards: {dimension: (N,) float64}; NaN marks a missing score.
    """

    id: str
    iteration: int
    index: int
    clip_id: str
    version: int
    weights_checksum: str
    window: Window
    sigmas: np.ndarray
    conditions: dict[str, np.ndarray]
    latents: np.ndarray
    means: np.ndarray
    log_probs: np.ndarray
    nfe_rollout: int
    noises: int = 1
    rewards: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        arrays = [
            self.latents,
            self.means,
            self.log_probs,
            self.sigmas,
            *self.conditions.values(),
            *self.rewards.values(),
        ]
        return sum(a.nbytes for a in arrays)


def group_id(iteration: int, index: int) -> str:
    """Stable name of a group; a resubmitted group keeps it."""
    return f"{iteration:06d}-{index:04d}"
