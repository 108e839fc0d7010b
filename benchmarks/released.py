"""The first step of a window at the cost others pay for it: one velocity per member, though all stand at one state.

The numbers do not change; only evaluations, time and memory do.
"""

from dataclasses import replace

import numpy as np
from torch import Tensor

from actors.generator import FlowGenerator
from actors.messages import RolloutTask
from foundation.dit import Prepared
from foundation.grids import grid
from foundation.sampling import Velocity
from trainer.config import AlgorithmConfig
from trainer.group import Group


def separate(config: AlgorithmConfig) -> AlgorithmConfig:
    """The section for the learner: every member has an initial noise of its own, so that replay shares nothing."""
    return config.model_copy(update={"noises": config.group_size})


class SeparateGenerator(FlowGenerator):
    """Evaluates the window's first velocity for every member; its groups are for a learner of `separate`."""

    _opening = -1.0

    def generate(self, task: RolloutTask, weights_checksum: str) -> tuple[list[Group], np.ndarray]:
        """As FlowGenerator, with the same samples and the higher count."""
        config = self._algorithm
        self._opening = float(grid(config.grid, config.steps)[task.window.start])
        groups, waveforms = super().generate(task, weights_checksum)
        extra = (config.group_size - config.noises) * (1 if config.cfg_scale == 1 else 2)
        counted = [replace(group, nfe_rollout=group.nfe_rollout + extra, noises=config.group_size) for group in groups]
        return counted, waveforms

    def _velocity(self, prepared: Prepared) -> Velocity:
        plain, branches = super()._velocity(prepared), self._algorithm.branches

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            if branches > 1 and len(x) == len(prepared) and abs(float(sigma) - self._opening) < 1e-6:
                return plain(x.repeat(branches, *[1] * (x.dim() - 1)), sigma)[: len(x)]
            return plain(x, sigma)

        return velocity
