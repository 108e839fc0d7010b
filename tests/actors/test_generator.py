"""The real generator: a small flow model, the embedded vocoder and the hybrid sampler."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.generator import FlowGenerator
from actors.messages import Prompt, RolloutTask
from actors.rollout import RolloutError
from foundation.checkpoint import checksum
from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig, inject
from foundation.model import FlowModel, initialise_unit_gain
from foundation.output import limit_peak
from foundation.sampling import group_noise, hybrid_sample, member_noise
from foundation.vocoder import Vocoder
from rewards_service.scores import Reference
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Group, Window
from trainer.update import Learner

ALGORITHM = AlgorithmConfig(group_size=3, prompts=4, steps=6, window_size=2, window_hi=2, tail="ab2", tail_steps=3)
FRAMES = 16


def make_model() -> FlowModel:
    torch.manual_seed(0)
    model = FlowModel(ModelConfig(width=32, depth=1, heads=1))
    initialise_unit_gain(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def make_prompt(number: int, seconds: float = FRAMES * 500 / 16_000) -> Prompt:
    random = np.random.default_rng(number)
    shapes = {"video": (2, 64), "text": (4, 64), "sync": (FRAMES, 64)}
    conditions = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Prompt(f"clip-{number}", conditions, Reference(f"clip-{number}", "a bell", seconds, (), (), 16.0))


def make_task(indices: tuple[int, ...] = (0, 1, 2, 3)) -> RolloutTask:
    return RolloutTask(5, 5, Window(2, 2), indices, tuple(make_prompt(k) for k in indices), seed=9)


@pytest.fixture(scope="module")
def generator() -> FlowGenerator:
    return FlowGenerator(make_model(), Vocoder(), ALGORITHM)


def same(a: Group, b: Group, tolerance: float = 0.0) -> bool:
    return (a.id, a.clip_id) == (b.id, b.clip_id) and np.allclose(a.latents, b.latents, rtol=0, atol=tolerance)


def test_groups_carry_what_replay_needs(generator: FlowGenerator) -> None:
    groups, waveforms = generator.generate(make_task(), "sum")
    assert [group.id for group in groups] == ["000005-0000", "000005-0001", "000005-0002", "000005-0003"]
    assert waveforms.shape == (4, 3, 2, FRAMES * 500)
    assert waveforms.dtype == np.float32
    assert np.abs(waveforms).max() <= 1
    for group in groups:
        assert group.latents.shape == (3, 3, 27, FRAMES)
        assert group.means.shape == (2, 3, 27, FRAMES)
        assert group.log_probs.shape == (2, 3)
        assert group.noises == 1
        assert group.weights_checksum == "sum"
        assert np.array_equal(group.sigmas, np.linspace(1, 0, 7))
        assert np.array_equal(group.latents[0, 0], group.latents[0, 2])
        # 2 prefix steps and the window's first at batch 1; the window's second and 2 tail steps for each of 3 members.
        assert group.nfe_rollout == 3 + 3 * 3


def test_sampling_again_gives_the_same_bits(generator: FlowGenerator) -> None:
    first, heard = generator.generate(make_task(), "sum")
    again, heard_again = generator.generate(make_task(), "sum")
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(heard, heard_again)


def test_a_group_does_not_depend_on_the_task_it_travels_in(generator: FlowGenerator) -> None:
    whole, _ = generator.generate(make_task(), "sum")
    part, _ = generator.generate(make_task((3, 1)), "sum")
    assert same(whole[3], part[0], tolerance=1e-5)
    assert same(whole[1], part[1], tolerance=1e-5)


def test_loading_replaces_the_trained_parameters_and_confirms_them(generator: FlowGenerator) -> None:
    before, _ = generator.generate(make_task(), "old")
    params = {name: p.detach().numpy() * 1.1 for name, p in make_model().trainable().items()}
    for array in params.values():
        array.flags.writeable = False
    assert generator.load(params) == checksum(params)
    after, _ = generator.generate(make_task(), "new")
    assert not same(before[0], after[0], tolerance=1e-4)


def test_weights_of_another_model_are_refused(generator: FlowGenerator) -> None:
    params = {name: p.detach().numpy() for name, p in make_model().trainable().items()}
    name = next(iter(params))
    with pytest.raises(RolloutError, match=f"missing {name}, unexpected none"):
        generator.load({key: value for key, value in params.items() if key != name})
    with pytest.raises(RolloutError, match=f"misshaped {name}"):
        generator.load(params | {name: np.zeros(1, dtype=np.float32)})


@pytest.mark.parametrize("noises", [1, 2, 4])
def test_every_member_is_its_own_rollout(noises: int) -> None:
    """Each from its noise, with its draws and its prompt, alone in a batch."""
    config = ALGORITHM.model_copy(update={"group_size": 4, "noises": noises})
    model, codec, task = make_model(), Vocoder(), make_task((0, 3))
    groups, waveforms = FlowGenerator(model, codec, config).generate(task, "sum")
    for place, (group, prompt) in enumerate(zip(groups, task.prompts, strict=True)):
        seeds, shape = (task.seed, task.iteration, group.index), (27, FRAMES)
        starts = group_noise(*seeds, (noises, *shape))
        draws = member_noise(*seeds, 2, 4, shape)
        inputs = Conditions(*(torch.from_numpy(prompt.conditions[n])[None] for n in ("video", "text", "sync")))
        prepared = model.prepare(model.condition(inputs, FRAMES), FRAMES)
        for member in range(4):
            final, record = hybrid_sample(
                lambda x, sigma, p=prepared: model.velocity(x, sigma, p),
                starts[member * noises // 4][None],
                group.sigmas,
                (2, 2),
                config.transition,
                config.noise_level,
                noise=draws[:, member : member + 1],
                tail=config.tail,
                tail_steps=config.tail_steps,
            )
            assert np.allclose(group.latents[:, member], record.latents[:, 0], atol=1e-5)
            assert np.allclose(group.means[:, member], record.means[:, 0], atol=1e-5)
            assert np.allclose(group.log_probs[:, member], record.log_probs[:, 0], atol=1e-5)
            alone = limit_peak(codec.decode(final))[0].numpy()
            assert np.allclose(waveforms[place, member], alone, atol=1e-4)


@pytest.mark.parametrize("noises", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_evaluations_are_what_the_transformer_sees(noises: int, guidance: float) -> None:
    config = ALGORITHM.model_copy(update={"group_size": 4, "noises": noises, "cfg_scale": guidance})
    model, rows = make_model(), []
    model.dit.transformer.register_forward_hook(lambda module, inputs, out: rows.append(len(out)))
    groups, _ = FlowGenerator(model, Vocoder(), config).generate(make_task(), "sum")
    # Two prefix steps and the window's first for each noise; its second and the 2 that are left for each member.
    each = (1 if guidance == 1 else 2) * (3 * noises + (1 + 2) * 4)
    assert [group.nfe_rollout for group in groups] == [each] * 4
    assert sum(rows) == 4 * each


@pytest.mark.parametrize("changes", [{}, {"noises": 2, "cfg_scale": 2.0}, {"kl_beta": 0.1, "reference_cfg_scale": 2.0}])
def test_the_learner_finds_ratios_of_one(changes: dict) -> None:
    small = {"group_size": 4, "prompts": 4, "steps": 6, "window_size": 2, "window_hi": 2}
    config = AlgorithmConfig.model_validate(small | changes)
    learner = Learner(make_model(), config, OptimiserConfig(), {"semantic": 1.0})
    generator = FlowGenerator(make_model(), Vocoder(), config)
    weights = generator.load(learner.export())
    task = replace(make_task(), iteration=0, version=0)
    groups, waveforms = generator.generate(task, weights)
    for group, heard in zip(groups, waveforms, strict=True):
        group.rewards = {"semantic": heard.std(axis=(1, 2)).astype(np.float64)}
    metrics = learner.update(IterationBatch.of(0, groups))
    assert metrics["mismatch"] < 1e-5
    assert metrics["optimiser_steps"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_ratios_are_one_at_full_size_settings(lora: LoraConfig | None, precision: str) -> None:
    """In bfloat16, with trained adapters, guidance, members in parts; what both sides hold has one checksum."""
    small = {"group_size": 4, "noises": 2, "prompts": 4, "steps": 6, "window_size": 2, "window_hi": 2}
    config = AlgorithmConfig.model_validate({**small, "cfg_scale": 3.0, "samples_per_pass": 1, "minibatches": 1})
    execution = ExecutionConfig.model_validate({"precision": precision, "activation_checkpointing": True})
    learner, rollout = (inject(make_model(), lora) if lora else make_model() for _ in range(2))
    trained = Learner(learner, config, OptimiserConfig(lr=1e-2), {"semantic": 1.0}, execution=execution)
    generator = FlowGenerator(rollout, Vocoder(), config, execution=execution)
    for iteration in range(2):
        task = replace(make_task(), iteration=iteration, version=iteration)
        weights = generator.load(trained.export())
        assert weights == trained.checksums[iteration]
        groups, waveforms = generator.generate(task, weights)
        assert waveforms.dtype == np.float32
        for group, heard in zip(groups, waveforms, strict=True):
            assert {a.dtype for a in (group.latents, group.means, group.log_probs)} == {np.dtype(np.float32)}
            group.rewards = {"semantic": heard.std(axis=(1, 2)).astype(np.float64)}
        metrics = trained.update(IterationBatch.of(iteration, groups))
        assert metrics["mismatch"] < (1e-5 if precision == "fp32" else trained.tolerance)
        assert trained.checksums[iteration + 1] != weights
    sent = sum(array.nbytes for array in trained.export().values())
    held = sum(parameter.nbytes for parameter in trained.parameters.values())
    assert sent == held if precision == "fp32" else sent < 0.6 * held + 40_000


def test_decoding_in_parts_gives_the_same_sound(generator: FlowGenerator) -> None:
    _, whole = generator.generate(make_task(), "sum")
    sizes: list[int] = []

    class Counted(Vocoder):
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            sizes.append(len(latents))
            return super().decode(latents)

    parts = FlowGenerator(make_model(), Counted(), ALGORITHM, samples_per_decode=5)
    parts.load({name: p.detach().numpy() for name, p in generator._parameters.items()})
    _, heard = parts.generate(make_task(), "sum")
    assert sizes == [5, 5, 2]
    np.testing.assert_allclose(heard, whole, atol=1e-6, rtol=0)


def test_the_length_follows_the_clip(generator: FlowGenerator) -> None:
    task = make_task((0,))
    longer = replace(task, prompts=(make_prompt(0, seconds=1.0),))
    groups, waveforms = generator.generate(longer, "sum")
    assert groups[0].latents.shape[-1] == 32
    assert waveforms.shape[-1] == 16_000
