import copy
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.conditions import Conditions
from foundation.grids import grid
from foundation.transitions import gaussian_kl, kernel, log_density
from tests.trainer.builders import LENGTH, WEIGHTS, algorithm, sample_groups, tiny_model
from trainer.advantages import advantages
from trainer.batch import IterationBatch, passes
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.errors import DivergenceError, InvariantError
from trainer.group import Group
from trainer.update import Learner

OPTIMISER = OptimiserConfig(lr=1e-3)
VARIANTS = {
    "fast": {"minibatches": 1},
    "two steps": {"minibatches": 1, "window_size": 2},
    "guided": {"minibatches": 1, "window_size": 2, "cfg_scale": 3.0},
    "sum": {"minibatches": 1, "advantage": "sum", "std": "global"},
    "cps": {"minibatches": 1, "transition": "cps", "window_size": 2},
    "mean KL": {"minibatches": 1, "window_size": 2, "kl_beta": 0.5, "kl_space": "mean"},
    "velocity KL": {"minibatches": 1, "kl_beta": 0.5, "kl_space": "velocity"},
}


def learner(config: AlgorithmConfig, **changes) -> Learner:
    return Learner(tiny_model(), config, OPTIMISER, WEIGHTS, **changes)


def naive_gradients(model, reference, groups: list[Group], config: AlgorithmConfig) -> dict[str, Tensor]:
    """The objective sample by sample, step by step, with nothing shared."""
    table = advantages([group.rewards for group in groups], WEIGHTS, config)
    sigmas = grid(config.grid, config.steps)
    losses = []
    for row, group in enumerate(groups):
        inputs = Conditions(*(torch.from_numpy(group.conditions[n])[None] for n in ("video", "text", "sync")))
        for member in range(config.group_size):
            for k, step in enumerate(group.window.steps):
                x, x_next = (torch.from_numpy(group.latents[k + i][member : member + 1]) for i in (0, 1))

                def transition(of, x=x, step=step, inputs=inputs):
                    prepared = of.prepare(of.condition(inputs, LENGTH), LENGTH, config.cfg_scale)
                    v = of.velocity(x, float(sigmas[step]), prepared)
                    levels = float(sigmas[step]), float(sigmas[step + 1]), config.noise_level, float(sigmas[1])
                    return kernel(config.transition)(x, v, *levels), v

                policy, v = transition(model)
                ratio = (log_density(x_next, policy) - float(group.log_probs[k, member])).exp()
                a = table.values[row, member]
                loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - config.clip_range, 1 + config.clip_range))
                if config.kl_beta:
                    with torch.no_grad():
                        anchor, v_ref = transition(reference)
                    kl = gaussian_kl(policy, anchor) if config.kl_space == "mean" else ((v - v_ref) ** 2).mean()
                    loss = loss + config.kl_beta * kl
                losses.append(loss.squeeze())
    torch.stack(losses).mean().backward()
    return {name: p.grad.clone() for name, p in model.trainable().items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_shared_passes_have_the_gradient_of_the_naive_loss(name):
    config = algorithm(**VARIANTS[name])
    trained = learner(config)
    groups = sample_groups(trained.model, config, 0, 0)
    naive_model, start = tiny_model(), tiny_model()
    if config.kl_beta:
        # Away from the reference, where the KL has a gradient; the old densities are then those of the moved policy.
        for model in (trained.model, naive_model):
            with torch.no_grad():
                model.trainable()["model.model.transformer.project_out.weight"].mul_(1.1)
        trained.at_version(0)
        groups = sample_groups(trained.model, config, 0, 0)
    expected = naive_gradients(naive_model, start, groups, config)
    metrics = trained.update(IterationBatch.of(0, groups))
    norm = torch.stack([g.square().sum() for g in expected.values()]).sum().sqrt().item()
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    scale = min(1.0, OPTIMISER.grad_clip / norm)
    for key, parameter in trained.parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[key] * scale, atol=2e-5 * norm, rtol=1e-3)


@pytest.mark.parametrize("limit", [1, 3])
def test_groups_per_pass_only_bounds_memory(limit):
    whole, parts = learner(algorithm(window_size=2)), learner(algorithm(window_size=2, groups_per_pass=limit))
    groups = sample_groups(whole.model, whole.algorithm, 0, 0)
    one, many = (each.update(IterationBatch.of(0, groups)) for each in (whole, parts))
    assert one["nfe_trained"] == many["nfe_trained"]
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert many["loss"] == pytest.approx(one["loss"], abs=1e-6)


@pytest.mark.parametrize(("size", "guidance", "expected"), [(1, 1.0, 4), (2, 1.0, 4 + 16), (2, 3.0, 2 * (4 + 16))])
def test_trained_evaluations_are_counted(size, guidance, expected):
    config = algorithm(window_size=size, cfg_scale=guidance, minibatches=1)
    trained = learner(config)
    metrics = trained.update(IterationBatch.of(0, sample_groups(trained.model, config, 0, 0)))
    assert metrics["nfe_trained"] == expected
    assert metrics["nfe_reference"] == 0
    assert metrics["samples"] == 16


def test_the_paper_preset_trains_with_a_reference():
    config = AlgorithmConfig(preset="paper", group_size=4, prompts=3, steps=6)
    trained = learner(config)
    for iteration in range(3):
        metrics = trained.update(IterationBatch.of(iteration, sample_groups(trained.model, config, 0, iteration)))
        assert metrics["mismatch"] < 1e-5
        assert metrics["optimiser_steps"] == 1
        assert metrics["nfe_reference"] == metrics["nfe_trained"] == 3 + 12
    assert metrics["kl"] > 0
    assert trained.version == 3


def test_learning_raises_the_reward():
    config = algorithm(prompts=6, group_size=8)
    trained = Learner(tiny_model(), config, OptimiserConfig(lr=2e-3), {"semantic": 1.0})

    def mean_reward(iteration: int) -> float:
        groups = sample_groups(trained.model, config, 1, iteration)
        return float(np.mean([group.rewards["semantic"] for group in groups]))

    before = mean_reward(100)
    for iteration in range(25):
        trained.update(IterationBatch.of(iteration, sample_groups(trained.model, config, 0, iteration)))
    assert mean_reward(100) > before + 0.05


def test_masked_samples_do_not_train():
    config = algorithm(advantage="sum", minibatches=1)
    trained, other = learner(config), learner(config)
    groups = sample_groups(trained.model, config, 0, 0)
    groups[1].rewards["temporal"][2] = np.nan
    changed = copy.deepcopy(groups)
    changed[1].latents[1][2] += 0.05
    metrics = trained.update(IterationBatch.of(0, groups))
    other.update(IterationBatch.of(0, changed))
    assert (metrics["samples"], metrics["masked"]) == (15, 1)
    assert trained.checksums[1] == other.checksums[1]


def test_a_batch_without_groups_or_scores_changes_nothing():
    trained = learner(algorithm())
    before = trained.checksums[0]
    metrics = trained.update(IterationBatch.of(0, []))
    assert (metrics["samples"], metrics["optimiser_steps"], trained.version) == (0, 0, 1)
    groups = sample_groups(trained.model, trained.algorithm, 0, 1)
    for group in groups:
        group.rewards = {name: np.full(4, np.nan) for name in WEIGHTS}
    metrics = trained.update(IterationBatch.of(1, groups))
    assert (metrics["samples"], metrics["masked"], trained.version) == (0, 16, 2)
    assert trained.checksums == {0: before, 1: before, 2: before}


def test_stale_groups_are_trained_off_policy():
    config = algorithm(minibatches=1)
    trained = learner(config)
    ahead = sample_groups(trained.model, config, 0, 1, version=0)
    trained.update(IterationBatch.of(0, sample_groups(trained.model, config, 0, 0)))
    metrics = trained.update(IterationBatch.of(1, ahead))
    assert metrics["mismatch"] == 0
    assert metrics["ratio_max"] != 1
    assert trained.version == 2


BROKEN = {
    "iteration": lambda group: setattr(group, "iteration", 7),
    "version 3": lambda group: setattr(group, "version", 3),
    "weight sync": lambda group: setattr(group, "weights_checksum", "0" * 32),
    "different windows": lambda group: setattr(group, "window", type(group.window)(group.window.start + 1, 1)),
    "window start": lambda group: setattr(group, "window", type(group.window)(4, 1)),
    "members": lambda group: setattr(group, "latents", group.latents[:, :3]),
    "another grid": lambda group: setattr(group, "sigmas", np.linspace(1, 0, 7) ** 2),
    "not finite": lambda group: group.latents.__setitem__((1, 0, 0, 0), np.nan),
    "do not share": lambda group: group.latents.__setitem__((0, 1), 0.0),
    "log-densities of rollout and learner differ": lambda group: group.log_probs.__iadd__(1e-3),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_invariant_stops_the_run_before_the_weights_change(message):
    config = algorithm(window_hi=3)
    trained = learner(config)
    groups = sample_groups(trained.model, config, 1, 0)
    assert groups[0].window.start < 3
    BROKEN[message](groups[0])
    before = trained.checksums[0]
    with pytest.raises(InvariantError, match=message):
        trained.update(IterationBatch.of(0, groups))
    trained.at_version(0)
    assert trained.checksums[0] == before


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change():
    trained = learner(algorithm(ratio_tolerance=1e9))
    groups = sample_groups(trained.model, trained.algorithm, 0, 0)
    groups[0].log_probs -= 200
    before = trained.checksums[0]
    with pytest.raises(DivergenceError, match="not finite"):
        trained.update(IterationBatch.of(0, groups))
    trained.at_version(0)
    assert trained.checksums[0] == before


def test_minibatches_and_passes():
    config = algorithm(prompts=5)
    groups = sample_groups(tiny_model(), config, 0, 0)
    batch = IterationBatch.of(0, groups[::-1])
    assert [group.index for group in batch.groups] == [0, 1, 2, 3, 4]
    assert batch.minibatches(2) == [range(2), range(2, 5)]
    assert batch.minibatches(9) == [range(i, i + 1) for i in range(5)]
    everyone = {group.id: group.rewards for group in groups}
    second = IterationBatch.of(0, groups[1::2], everyone)
    assert [place for place, _ in second.local(range(2, 5))] == [3]
    groups[2].conditions["text"] = groups[2].conditions["text"][:2]
    runs = [[place for place, _ in run] for run in passes(list(enumerate(groups)), 2)]
    assert runs == [[0, 1], [2], [3, 4]]


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, world: int):
        self.world = world
        self.barrier = threading.Barrier(world, timeout=30)
        self.slots: list = [None] * world

    def at(self, rank: int) -> "ThreadRank":
        return ThreadRank(self, rank)


class ThreadRank:
    def __init__(self, together: Threads, rank: int):
        self.together, self.rank, self.world = together, rank, together.world

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for tensor, parts in zip(tensors, zip(*self._exchange(tensors), strict=True), strict=True):
            tensor.copy_(torch.stack(parts).sum(0))
        self.together.barrier.wait()

    def max_(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack([parts[0] for parts in self._exchange([tensor])]).amax(0))
        self.together.barrier.wait()

    def _exchange(self, tensors: Sequence[Tensor]) -> list:
        self.together.slots[self.rank] = [tensor.clone() for tensor in tensors]
        self.together.barrier.wait()
        return list(self.together.slots)


@pytest.mark.parametrize("prompts", [4, 3, 1])
def test_ranks_train_as_one(prompts):
    """Uneven shares, and a rank without any group."""
    config = algorithm(prompts=prompts, window_size=2, minibatches=min(2, prompts))
    alone = learner(config)
    groups = sample_groups(alone.model, config, 0, 0)
    groups[0].rewards["spatial"][1] = np.nan
    everyone = {group.id: group.rewards for group in groups}
    together = Threads(2)
    ranks = [learner(config, ranks=together.at(rank)) for rank in range(2)]
    results: list[dict] = [{}, {}]

    def work(rank: int) -> None:
        results[rank] = ranks[rank].update(IterationBatch.of(0, groups[rank::2], everyone))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = alone.update(IterationBatch.of(0, groups))
    assert ranks[0].checksums[1] == ranks[1].checksums[1]
    assert results[0] == results[1]
    for key, value in expected.items():
        assert results[0][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    for name, parameter in alone.parameters.items():
        torch.testing.assert_close(ranks[0].parameters[name], parameter, atol=2e-5, rtol=0)
