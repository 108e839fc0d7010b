"""Shared and batched replay against the naive objective: gradients, metrics and the count of evaluations."""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from foundation.model import FlowModel
from tests.trainer.builders import WEIGHTS, algorithm, sample_groups, tiny_model
from tests.trainer.naive import naive
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Group
from trainer.update import Learner

ALL = {"window_size": None, "window_hi": None}
GUIDED_POLICY = {"cfg_scale": 3.0, "reference_cfg_scale": 1.0}
GUIDED_REFERENCE = {"cfg_scale": 1.0, "reference_cfg_scale": 3.0}
# Every trust region with every distance, over all sizes of window, numbers of noises and ways to guide.
CASES: dict[str, dict[str, Any]] = {
    "ratio": {"window_size": 1, "noises": 1},
    "ratio, x": {"window_size": 2, "noises": 2, "kl_space": "x", "kl_beta": 0.3},
    "ratio, x_no_dt": {**ALL, "noises": 4, "kl_space": "x_no_dt", "kl_beta": 3.0, "cfg_scale": 3.0},
    "ratio, v": {"window_size": 1, "noises": 4, "kl_space": "v", "kl_beta": 0.3, **GUIDED_REFERENCE},
    "kl": {**ALL, "noises": 1},
    "kl, x": {"window_size": 1, "noises": 2, "kl_space": "x", "kl_beta": 0.3, **GUIDED_POLICY},
    "kl, x_no_dt": {"window_size": 2, "noises": 4, "kl_space": "x_no_dt", "kl_beta": 3.0, **GUIDED_REFERENCE},
    "kl, v": {"window_size": 2, "noises": 1, "kl_space": "v", "kl_beta": 0.3, "cfg_scale": 3.0},
    "ratio_norm": {"window_size": 2, "noises": 4},
    "ratio_norm, x": {**ALL, "noises": 1, "kl_space": "x", "kl_beta": 0.3, **GUIDED_REFERENCE},
    "ratio_norm, x_no_dt": {"window_size": 1, "noises": 1, "kl_space": "x_no_dt", "kl_beta": 3.0},
    "ratio_norm, v": {**ALL, "noises": 2, "kl_space": "v", "kl_beta": 0.3, **GUIDED_POLICY},
}
OTHERS: dict[str, dict[str, Any]] = {
    "cps": {"window_size": 2, "transition": "cps", "trust_region": "kl", "kl_space": "x", "kl_beta": 0.3},
    "exponential": {"window_size": 2, "transition": "exponential", "trust_region": "ratio_norm"},
    "one group a pass": {**ALL, "noises": 2, "groups_per_pass": 1},
    "missing scores": {"window_size": 2, "noises": 2, "advantage": "weighted_sum_global_std"},
}
VARIANTS = {name: {"trust_region": name.split(",")[0], **changes} for name, changes in CASES.items()} | OTHERS


@torch.no_grad()
def shake(model: FlowModel, seed: int, by: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.trainable().values():
        parameter.mul_(1 + by * torch.randn(parameter.shape, generator=generator))


def off_policy(config: AlgorithmConfig) -> tuple[Learner, FlowModel, FlowModel, list[Group]]:
    """A learner, the model its groups were sampled under, its reference, and the groups: three different models."""
    learner = Learner(tiny_model(), config, OptimiserConfig(lr=1e-3, grad_clip=1e9), WEIGHTS)
    reference = copy.deepcopy(learner.model)
    shake(learner.model, 1, 0.05)
    learner.at_version(0)
    groups = sample_groups(learner.model, config, 0, 0)
    sampled = copy.deepcopy(learner.model)
    shake(learner.model, 2, 0.1)
    return learner, sampled, reference, groups


def between(sizes: list[float]) -> float:
    """A limit that some of the sizes are clearly beyond and some clearly not: the middle of the widest gap."""
    ordered = sorted(sizes)
    gaps = [(above - below, (above + below) / 2) for below, above in pairwise(ordered)]
    return max(gaps)[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_replay_is_the_naive_objective(name):
    config = algorithm(prompts=2, minibatches=1, ratio_tolerance=10, **VARIANTS[name])
    learner, sampled, reference, groups = off_policy(config)
    if name == "missing scores":
        groups[0].rewards["spatial"][1] = np.nan
    policy = copy.deepcopy(learner.model)
    with torch.no_grad():
        limit = between(naive(policy, sampled, reference, groups, config).sizes)
    config = config.model_copy(update={"clip_range": limit, "kl_limit": limit})
    learner.algorithm = config
    seen = naive(policy, sampled, reference, groups, config)
    torch.stack(seen.losses).mean().backward()
    expected = {key: parameter.grad for key, parameter in policy.trainable().items()}

    metrics = learner.update(IterationBatch.of(0, groups))
    norm = torch.stack([gradient.norm() for gradient in expected.values() if gradient is not None]).norm().item()
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for key, parameter in learner.parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[key], atol=2e-5 * norm, rtol=1e-3, msg=key)

    # The case is what it claims to be: ratios away from 1, some of them beyond the limit and some not.
    assert 0 < sum(seen.limited) < len(seen.limited)
    log_ratios = np.array(seen.log_ratios)
    assert np.abs(log_ratios).max() > 0.005
    assert metrics["samples"] == len(seen.limited) / config.width
    assert metrics["loss"] == pytest.approx(torch.stack(seen.losses).mean().item(), rel=1e-4, abs=1e-5)
    assert metrics["clip_fraction"] == pytest.approx(np.mean(seen.limited))
    assert metrics["kl"] == pytest.approx(np.mean(seen.distances), rel=1e-4)
    assert metrics["ratio_mean"] == pytest.approx(np.exp(log_ratios).mean(), rel=1e-5)
    assert metrics["ratio_max"] == pytest.approx(np.exp(log_ratios).max(), rel=1e-5)
    assert metrics["mismatch"] == pytest.approx(np.abs(log_ratios).max(), abs=1e-5)
    assert metrics["delta_log_prob"] == pytest.approx(np.abs(log_ratios).mean(1).tolist(), abs=1e-5)
    assert metrics["policy_kl"] == pytest.approx(np.mean(seen.divergences, axis=1).tolist(), rel=1e-4)


def rows_of(model: FlowModel, seen: list[int]) -> Any:
    """Counts the rows of every call of the transformer, in which a guided pair is two."""
    return model.dit.transformer.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))


@pytest.mark.parametrize(
    ("changes", "trained", "reference"),
    [
        # 2 groups of 4 members: one velocity per noise at the first step, one per member at each later one.
        ({"window_size": 1}, 2, 0),
        ({"window_size": 1, "noises": 2}, 4, 0),
        ({"window_size": 1, "noises": 4}, 8, 0),
        ({"window_size": 2}, 2 + 8, 0),
        ({**ALL, "noises": 2}, 4 + 5 * 8, 0),
        ({"window_size": 2, "cfg_scale": 3.0}, 2 * (2 + 8), 0),
        ({"window_size": 2, "kl_beta": 0.1}, 2 + 8, 2 + 8),
        ({"window_size": 2, "kl_beta": 0.1, "cfg_scale": 3.0}, 2 * (2 + 8), 2 * (2 + 8)),
        ({"window_size": 2, "kl_beta": 0.1, **GUIDED_REFERENCE}, 2 + 8, 2 * (2 + 8)),
        ({"window_size": 2, "kl_beta": 0.1, **GUIDED_POLICY}, 2 * (2 + 8), 2 + 8),
        ({"window_size": 2, "groups_per_pass": 1, "kl_beta": 0.1}, 2 + 8, 2 + 8),
        ({"window_size": 2, "minibatches": 2}, 2 + 8, 0),
        ({"window_size": 2, "minibatches": 2, "epochs": 3, "kl_beta": 0.1}, 3 * (2 + 8), 2 + 8),
        # Two halves of a group evaluate the state that they share once each, unless they branch from two noises.
        ({"window_size": 2, "samples_per_pass": 2, "kl_beta": 0.1}, 4 + 8, 4 + 8),
        ({"window_size": 2, "samples_per_pass": 2, "noises": 2}, 4 + 8, 0),
        ({"window_size": 2, "samples_per_pass": 1, "noises": 4}, 8 + 8, 0),
    ],
)
def test_evaluations_are_counted(changes, trained, reference):
    config = algorithm(prompts=2, **{"minibatches": 1, **changes})
    learner = Learner(tiny_model(), config, OptimiserConfig(), WEIGHTS)
    groups = sample_groups(learner.model, config, 0, 0)
    by_model: list[int] = []
    by_reference: list[int] = []
    rows_of(learner.model, by_model)
    if learner.reference is not None:
        rows_of(learner.reference.model, by_reference)
    metrics = learner.update(IterationBatch.of(0, groups))
    assert (metrics["nfe_trained"], metrics["nfe_reference"]) == (trained, reference)
    assert (sum(by_model), sum(by_reference)) == (trained, reference)
    assert metrics["optimiser_steps"] == config.epochs * config.minibatches


@pytest.mark.parametrize("noises", [1, 2, 4])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_rollouts_are_counted(noises, guidance):
    """The prefix and the window's first step once per noise, what follows once per member."""
    config = algorithm(prompts=2, noises=noises, window_size=2, cfg_scale=guidance)
    model = tiny_model()
    rows: list[int] = []
    rows_of(model, rows)
    groups = sample_groups(model, config, 0, 0)
    start = groups[0].window.start
    each = (1 if guidance == 1 else 2) * (noises * (start + 1) + 4 * (1 + 2))
    assert [group.nfe_rollout for group in groups] == [each, each]
    assert sum(rows) == 2 * each
