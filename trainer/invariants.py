"""What must hold between rollout and learner; a run that breaks one of these learns nothing and says so at once."""

from collections.abc import Mapping, Sequence

import numpy as np

from foundation.execution import Precision
from foundation.grids import grid
from trainer.config import AlgorithmConfig
from trainer.errors import InvariantError
from trainer.group import Group

# Largest |log ratio| that is taken for rounding. Rollout and learner evaluate the same states in batches of other
# shapes, whose sums round in another order: measured on a CPU 2e-7 in float32 and 2e-5 in bfloat16 (width 1024, 4
# blocks, guidance 5, a window early in the grid; late windows have less noise to divide by).
RATIO_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 2e-3}


def check_groups(
    groups: Sequence[Group], iteration: int, version: int, checksums: Mapping[int, str], config: AlgorithmConfig
) -> None:
    """Every group belongs to this iteration, this grid, one window, and weights the learner itself published.

    checksums: of the learner's own weights by version. Raises InvariantError naming the group.
    """
    for group in groups:
        if group.iteration != iteration:
            raise InvariantError(f"Group {group.id} is of iteration {group.iteration}, the learner is at {iteration}.")
        _check_weights(group, version, checksums)
        _check_arrays(group, config)
    windows = {(group.window.start, group.window.size) for group in groups}
    if len(windows) > 1:
        raise InvariantError(f"Iteration {iteration} has groups of different windows (start, size): {sorted(windows)}.")


def _check_weights(group: Group, version: int, checksums: Mapping[int, str]) -> None:
    if group.version > version or group.version not in checksums:
        raise InvariantError(
            f"Group {group.id} was sampled with weights version {group.version}; the learner is at {version} and "
            f"knows versions {sorted(checksums)}. The rollout workers and the learner are not of one run."
        )
    if group.weights_checksum != checksums[group.version]:
        raise InvariantError(
            f"Group {group.id} was sampled with weights {group.weights_checksum[:12]} under version {group.version}, "
            f"but the learner's version {group.version} is {checksums[group.version][:12]}: the weight sync is broken."
        )


def _check_arrays(group: Group, config: AlgorithmConfig) -> None:
    start, size = group.window.start, group.window.size
    if size != config.width or not config.window_lo <= start <= config.last_start:
        raise InvariantError(
            f"Group {group.id} has window start {start}, size {size}; this run uses size {config.width} and "
            f"starts {config.window_lo} to {config.last_start}."
        )
    members = config.group_size
    expected = (size + 1, members), (size, *group.latents.shape[1:]), (size, members), config.noises
    if (group.latents.shape[:2], group.means.shape, group.log_probs.shape, group.noises) != expected:
        raise InvariantError(
            f"Group {group.id} has latents {group.latents.shape}, means {group.means.shape}, log-densities "
            f"{group.log_probs.shape} and {group.noises} initial noises; expected {members} members from "
            f"{config.noises}, {size + 1} states, and {size} means and log-densities of each."
        )
    sigmas = grid(config.grid, config.steps)
    if group.sigmas.shape != sigmas.shape or not np.allclose(group.sigmas, sigmas, rtol=0, atol=1e-6):
        raise InvariantError(
            f"Group {group.id} was sampled on another grid of noise levels than {config.grid!r} with {config.steps} "
            "steps."
        )
    if not all(np.isfinite(array).all() for array in (group.latents, group.means, group.log_probs)):
        raise InvariantError(f"Group {group.id} holds latents, means or log-densities that are not finite.")
    opening = group.latents[0].reshape(config.noises, config.branches, -1)
    if not (opening == opening[:, :1]).all():
        raise InvariantError(
            f"Members of group {group.id} that branch from one noise do not share their state when the window opens."
        )


def check_ratio(mismatch: float, tolerance: float, iteration: int) -> None:
    """Before the first optimiser step the policy is the one that sampled, so every ratio is 1.

    mismatch: largest |log ratio| seen. Raises InvariantError above `tolerance`, and for NaN.
    """
    if not mismatch <= tolerance:
        raise InvariantError(
            f"Before the first update of iteration {iteration} the log-densities of rollout and learner differ by "
            f"{mismatch:.3g} (tolerance {tolerance:g}). They must use the same weights, conditions, grid, transition "
            "and precision; raise algorithm.ratio_tolerance only if the two run on different hardware."
        )
