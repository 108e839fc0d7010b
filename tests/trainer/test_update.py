"""One iteration of the learner: presets, masks, invariants, minibatches."""

import copy

import numpy as np
import pytest
import torch

from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig, base, inject
from tests.trainer.builders import WEIGHTS, algorithm, sample_groups, tiny_model
from trainer.batch import IterationBatch, passes
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.errors import DivergenceError, InvariantError
from trainer.replay import Replay, Stack
from trainer.update import Learner

OPTIMISER = OptimiserConfig(lr=1e-3)


def learner(config: AlgorithmConfig, **changes) -> Learner:
    return Learner(tiny_model(), config, OPTIMISER, WEIGHTS, **changes)


@pytest.mark.parametrize("limit", [1, 3])
def test_groups_per_pass_only_bounds_memory(limit):
    whole, parts = learner(algorithm(window_size=2)), learner(algorithm(window_size=2, groups_per_pass=limit))
    groups = sample_groups(whole.model, whole.algorithm, 0, 0)
    one, many = (each.update(IterationBatch.of(0, groups)) for each in (whole, parts))
    assert one["nfe_trained"] == many["nfe_trained"]
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert many["loss"] == pytest.approx(one["loss"], abs=1e-6)


@pytest.mark.parametrize("changes", [{"noises": 1}, {"noises": 2}, {"kl_beta": 0.1, "trust_region": "kl"}])
@pytest.mark.parametrize("members", [1, 2])
def test_samples_per_pass_only_bounds_memory(members, changes):
    whole = learner(algorithm(window_size=2, **changes))
    parts = learner(algorithm(window_size=2, samples_per_pass=members, **changes))
    groups = sample_groups(whole.model, whole.algorithm, 0, 0)
    groups[0].rewards["spatial"][1] = np.nan
    one, many = (each.update(IterationBatch.of(0, groups)) for each in (whole, parts))
    assert many["nfe_trained"] >= one["nfe_trained"]
    assert (many["samples"], many["masked"]) == (one["samples"], one["masked"])
    for name in ("grad_norm", "loss", "kl", "ratio_mean"):
        assert many[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(parts.parameters[name], parameter, atol=2e-5, rtol=0)


def test_an_offloaded_reference_is_the_same_reference():
    config = algorithm(window_size=2, kl_beta=0.3, reference_cfg_scale=2.0)
    kept, offloaded = learner(config), learner(config, reference="offload")
    for iteration in range(2):
        groups = sample_groups(kept.model, config, 0, iteration)
        one, other = (each.update(IterationBatch.of(iteration, groups)) for each in (kept, offloaded))
        assert one == other
    assert kept.checksums == offloaded.checksums


def test_adapters_are_measured_against_the_model_without_them():
    """As a copy of the start model would be, which is not made."""
    config = algorithm(window_size=2, kl_beta=0.3, minibatches=1, epochs=2)
    adapters = Learner(inject(tiny_model(), LoraConfig(rank=2)), config, OptimiserConfig(lr=1e-2), WEIGHTS)
    before = base(adapters.model)
    before = {name: tensor.clone() for name, tensor in before.items()}
    assert adapters.reference is not None
    assert adapters.reference.model is adapters.model
    for iteration in range(2):
        groups = sample_groups(adapters.model, config, 0, iteration)
        metrics = adapters.update(IterationBatch.of(iteration, groups))
        assert metrics["mismatch"] < 1e-5
        assert metrics["nfe_reference"] == metrics["nfe_trained"] / 2
    assert metrics["kl"] > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in base(adapters.model).items())
    # What the distance was measured to is the start model.
    start, conditions = tiny_model(), adapters._condition(groups[0])
    stack = Stack.of(groups[:1], torch.device("cpu"))
    with torch.no_grad(), adapters.reference.ready() as model:
        found, expected = (Replay(m, conditions, stack, config, 1.0).step(1).velocity for m in (model, start))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_bf16_trains_float32_weights(lora, again):
    config = algorithm(window_size=2, kl_beta=0.1)
    plain, narrow = (
        Learner(
            inject(tiny_model(), LoraConfig(rank=2)) if lora else tiny_model(),
            config,
            OPTIMISER,
            WEIGHTS,
            execution=ExecutionConfig.model_validate({"precision": precision, "activation_checkpointing": again}),
        )
        for precision in ("fp32", "bf16")
    )
    groups = sample_groups(plain.model, config, 0, 0)
    for group in groups:
        group.weights_checksum = narrow.checksums[0]
    metrics = narrow.update(IterationBatch.of(0, groups))
    for group in groups:
        group.weights_checksum = plain.checksums[0]
    expected = plain.update(IterationBatch.of(0, groups))
    assert 0 < metrics["mismatch"] < narrow.tolerance
    assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in narrow.parameters.values())
    assert {array.dtype for array in plain.export().values()} == {np.dtype(np.float32)}
    assert np.dtype(np.int16) in {array.dtype for array in narrow.export().values()}


# Velocity evaluations with gradient and of the reference, and of one group's rollout in windows that begin at step 0.
PRESETS = {
    "fast": ({"window_hi": 2, "tail_steps": 2}, 2 * 3, 0),
    "paper": ({}, 3 + 12, 3 + 12),
    "official": ({"window_lo": 1, "window_hi": 1}, 2 * (6 + 12), 2 * (6 + 12)),
    "full_sde": ({}, 3 + 5 * 12, 0),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset):
    changes, trained_nfe, reference_nfe = PRESETS[preset]
    config = AlgorithmConfig.model_validate({"preset": preset, "group_size": 4, "prompts": 3, "steps": 6, **changes})
    trained = learner(config)
    for iteration in range(3):
        metrics = trained.update(IterationBatch.of(iteration, sample_groups(trained.model, config, 0, iteration)))
        assert metrics["mismatch"] < 1e-5
        assert metrics["optimiser_steps"] == config.epochs * config.minibatches
        assert (metrics["nfe_trained"], metrics["nfe_reference"]) == (trained_nfe, reference_nfe)
        assert (metrics["samples"], metrics["masked"]) == (12, 0)
        assert len(metrics["delta_log_prob"]) == len(metrics["policy_kl"]) == config.width
        assert metrics["grad_norm"] > 0
    assert (metrics["kl"] > 0) == (reference_nfe > 0)
    assert trained.version == 3
    assert len(set(trained.checksums.values())) == 4


def test_metrics_name_the_conflicts_and_spreads_of_the_batch():
    config = algorithm()
    trained = learner(config)
    groups = sample_groups(trained.model, config, 0, 0)
    metrics = trained.update(IterationBatch.of(0, groups))
    tables = np.array([[group.rewards[name] for name in WEIGHTS] for group in groups])
    z = (tables - tables.mean(2, keepdims=True)) / tables.std(2, keepdims=True)
    expected = np.corrcoef(np.concatenate(list(z), axis=1))
    names = list(WEIGHTS)
    pairs = {f"{a}/{b}": expected[i, j] for i, a in enumerate(names) for j, b in enumerate(names) if i < j}
    assert metrics["conflict"] == pytest.approx(pairs)
    assert metrics["reward_spread"] == pytest.approx(tables.sum(1).std(1).mean())
    assert metrics["weights"] == WEIGHTS


def test_projected_weights_are_trained_with_and_reported():
    config = algorithm(conflict="project", prompts=2, minibatches=1)
    trained, plain = learner(config), learner(algorithm(prompts=2, minibatches=1))
    groups = sample_groups(trained.model, config, 0, 0)
    for group in groups:
        group.rewards["temporal"] = -group.rewards["semantic"] + 0.1 * group.rewards["aesthetic"]
        group.rewards["spatial"] = -3 * group.rewards["semantic"] - group.rewards["aesthetic"]
    metrics, before = (each.update(IterationBatch.of(0, groups)) for each in (trained, plain))
    assert metrics["conflict"] == before["conflict"]
    assert min(metrics["conflict"].values()) < -0.9
    assert metrics["weights"] != before["weights"] == WEIGHTS
    assert trained.checksums[1] != plain.checksums[1]


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
    config = algorithm(advantage="weighted_sum_group_std", minibatches=1)
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
    "and 2 initial noises": lambda group: setattr(group, "noises", 2),
    r"means \(1, 4, 3, 4\)": lambda group: setattr(group, "means", group.means[..., :4]),
    "means or log-densities that are not finite": lambda group: group.means.__setitem__((0, 1, 0, 0), np.inf),
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
