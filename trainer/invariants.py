"""What must hold between rollout and learner; a run that breaks one of these learns nothing and says so at once."""

from collections.abc import Mapping, Sequence

import numpy as np

from foundation.grids import grid
from trainer.config import AlgorithmConfig
from trainer.errors import InvariantError
from trainer.group import Group


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
    if size != config.window_size or not config.window_lo <= start <= config.last_start:
        raise InvariantError(
            f"Group {group.id} has window start {start}, size {size}; this run uses size {config.window_size} and "
            f"starts {config.window_lo} to {config.last_start}."
        )
    expected = (size + 1, config.group_size), (size, config.group_size)
    if (group.latents.shape[:2], group.log_probs.shape) != expected:
        raise InvariantError(
            f"Group {group.id} has latents {group.latents.shape} and log-densities {group.log_probs.shape}; expected "
            f"{config.group_size} members, {size + 1} states and {size} log-densities of each."
        )
    sigmas = grid(config.grid, config.steps)
    if group.sigmas.shape != sigmas.shape or not np.allclose(group.sigmas, sigmas, rtol=0, atol=1e-6):
        raise InvariantError(
            f"Group {group.id} was sampled on another grid of noise levels than {config.grid!r} with {config.steps} "
            "steps."
        )
    if not (np.isfinite(group.latents).all() and np.isfinite(group.log_probs).all()):
        raise InvariantError(f"Group {group.id} holds latents or log-densities that are not finite.")
    if not (group.latents[0] == group.latents[0][:1]).all():
        raise InvariantError(f"Members of group {group.id} do not share their state at the start of the window.")


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
