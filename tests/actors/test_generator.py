"""The real generator: a small flow model, the embedded vocoder and the hybrid sampler."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.generator import FlowGenerator
from actors.messages import Prompt, RolloutTask
from actors.rollout import RolloutError
from foundation.checkpoint import checksum
from foundation.config import ModelConfig
from foundation.model import FlowModel, initialise_unit_gain
from foundation.vocoder import Vocoder
from rewards_service.scores import Reference
from trainer.config import AlgorithmConfig
from trainer.group import Group, Window

ALGORITHM = AlgorithmConfig(group_size=3, prompts=4, steps=6, window_size=2, window_hi=2)
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
        assert group.log_probs.shape == (2, 3)
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


def test_guidance_counts_twice() -> None:
    guided = FlowGenerator(make_model(), Vocoder(), ALGORITHM.model_copy(update={"cfg_scale": 2.0}))
    groups, _ = guided.generate(make_task((0,)), "sum")
    assert groups[0].nfe_rollout == 2 * (3 + 3 * 3)


def test_the_length_follows_the_clip(generator: FlowGenerator) -> None:
    task = make_task((0,))
    longer = replace(task, prompts=(make_prompt(0, seconds=1.0),))
    groups, waveforms = generator.generate(longer, "sum")
    assert groups[0].latents.shape[-1] == 32
    assert waveforms.shape[-1] == 16_000
