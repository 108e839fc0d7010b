"""Properties of the flow model that no golden number shows."""

import pytest
import torch

from foundation import model as model_module
from foundation.conditioners import EmbeddingMLP, SyncConditioner, resample_time
from foundation.config import ModelConfig
from foundation.model import FlowModel, initialise_unit_gain, training_dropout
from settings import PrismError
from tests.foundation.conftest import random_conditions


def states(batch: int, length: int = 64) -> torch.Tensor:
    return torch.randn(batch, 27, length, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_guidance_recombines_conditional_and_null(small_model: FlowModel) -> None:
    x, conditions = states(3), small_model.condition(random_conditions(3), 64)
    every = torch.ones(3, dtype=torch.bool)
    prepared = small_model.prepare(conditions, 64, cfg_scale=2.5)
    conditional = small_model.velocity(x, 0.7, small_model.prepare(conditions, 64))
    null = small_model.velocity(x, 0.7, small_model.prepare(conditions, 64, drop=(every, every, every)))
    torch.testing.assert_close(
        small_model.velocity(x, 0.7, prepared), null + 2.5 * (conditional - null), atol=2e-5, rtol=0
    )
    assert (prepared.nfe, small_model.prepare(conditions, 64).nfe) == (2, 1)


@torch.no_grad()
def test_number_and_vector_of_noise_levels_agree(small_model: FlowModel) -> None:
    x = states(4)
    conditions = small_model.condition(random_conditions(4), 64)
    for cfg_scale in (1.0, 3.0):
        prepared = small_model.prepare(conditions, 64, cfg_scale)
        torch.testing.assert_close(
            small_model.velocity(x, 0.3, prepared),
            small_model.velocity(x, torch.full((4,), 0.3), prepared),
            atol=1e-5,
            rtol=0,
        )


@torch.no_grad()
def test_prepared_rows_follow_their_clip(small_model: FlowModel) -> None:
    conditions = small_model.condition(random_conditions(3), 64)
    prepared, x = small_model.prepare(conditions, 64), states(3)
    whole = small_model.velocity(x, 0.5, prepared)
    torch.testing.assert_close(small_model.velocity(x[1:2], 0.5, prepared[1:2]), whole[1:2], atol=1e-5, rtol=0)
    repeated = small_model.velocity(x.repeat_interleave(2, 0), 0.5, prepared.repeat_interleave(2))
    torch.testing.assert_close(repeated, whole.repeat_interleave(2, 0), atol=1e-5, rtol=0)
    assert len(prepared.repeat_interleave(2)) == 6


@pytest.mark.parametrize("path", [0, 1, 2])
@torch.no_grad()
def test_each_path_matters_and_drops_alone(small_model: FlowModel, path: int) -> None:
    conditions, x = small_model.condition(random_conditions(2), 64), states(2)
    kept = small_model.velocity(x, 0.5, small_model.prepare(conditions, 64))
    drop = [torch.zeros(2, dtype=torch.bool) for _ in range(3)]
    drop[path] = torch.tensor([False, True])
    dropped = small_model.velocity(x, 0.5, small_model.prepare(conditions, 64, drop=(drop[0], drop[1], drop[2])))
    torch.testing.assert_close(dropped[0], kept[0], atol=1e-5, rtol=0)
    assert (dropped[1] - kept[1]).abs().max() > 1e-3


def test_gradient_reaches_every_trainable_parameter_through_preparation(small_model: FlowModel) -> None:
    with torch.no_grad():
        conditions = small_model.condition(random_conditions(2), 64)
    small_model.velocity(states(2), 0.5, small_model.prepare(conditions, 64)).square().mean().backward()
    trainable = small_model.trainable()
    assert all(p.grad is not None and p.grad.any() for p in trainable.values())
    state = small_model.state_dict()
    assert all(state[name].data_ptr() == p.data_ptr() for name, p in trainable.items())
    others = {n for n, _ in small_model.named_parameters()} - trainable.keys()
    assert all(n.startswith("conditioner.") or ".empty_" in n for n in others)


@torch.no_grad()
def test_other_lengths_and_cut_segments(small_model: FlowModel) -> None:
    conditions = random_conditions(2)
    short = type(conditions)(conditions.video, conditions.text, conditions.sync[:, :61])
    conditioned = small_model.condition(short, 47)
    assert conditioned.sync.shape == (2, 47, 64)
    assert small_model.velocity(states(2, 47), 0.5, small_model.prepare(conditioned, 47)).shape == (2, 27, 47)


def test_sync_positions_repeat_per_segment() -> None:
    conditioner = SyncConditioner(4, 4, segment=3)
    conditioner.embedder = torch.nn.Identity()  # type: ignore[assignment]
    torch.nn.init.normal_(conditioner.sync_pos_emb)
    actual = conditioner(torch.zeros(1, 7, 4))[0]
    expected = conditioner.sync_pos_emb[0, 0][torch.arange(7) % 3]
    assert torch.equal(actual, expected)


def test_resample_time_by_hand() -> None:
    tokens = torch.tensor([[[0.0], [1.0]]])
    # Output k reads input position (k + 0.5) / 2 - 0.5, clamped to the ends: 0, 0.25, 0.75, 1.
    assert resample_time(tokens, 4).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


@torch.no_grad()
def test_unit_gain_initialisation() -> None:
    torch.manual_seed(0)
    model = FlowModel(ModelConfig())
    initialise_unit_gain(model, torch.Generator().manual_seed(3))
    for module in model.modules():
        if isinstance(module, EmbeddingMLP):
            rms = module(torch.randn(512, 64)).square().mean().sqrt().item()
            assert rms == pytest.approx(1.0, abs=0.15)
    # Nothing writes to the residual stream yet: the velocity is a linear read-out of the input tokens.
    x, dit = states(2), model.dit
    prepared = model.prepare(model.condition(random_conditions(2), 64), 64)
    tokens = dit.transformer.project_in(x.transpose(1, 2)) + prepared.stream
    expected = dit.transformer.project_out(tokens).transpose(1, 2)
    torch.testing.assert_close(model.velocity(x, 0.4, prepared), expected, atol=1e-5, rtol=0)

    again = FlowModel(ModelConfig())
    initialise_unit_gain(again, torch.Generator().manual_seed(3))
    key = "conditioner.conditioners.text_features.embedder.0.weight"
    assert torch.equal(again.state_dict()[key], model.state_dict()[key])


def test_training_dropout_is_independent_per_path() -> None:
    masks = torch.stack(training_dropout(20000, 0.1, torch.Generator().manual_seed(0))).float()
    assert masks.mean(1).tolist() == pytest.approx([0.1] * 3, abs=0.01)
    assert torch.corrcoef(masks).fill_diagonal_(0).abs().max() < 0.03


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 64, "heads": 3}, "not divisible"),
        ({"width": 64, "heads": 4}, "fewer heads"),
        ({"timestep_features": 7}, "must be even"),
    ],
)
def test_dimensions_that_cannot_be(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(PrismError, match=message):
        ModelConfig(**wrong)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_blocks_of_rows_change_nothing(
    small_model: FlowModel, monkeypatch: pytest.MonkeyPatch, cfg_scale: float
) -> None:
    x, t = states(5), torch.rand(5)
    with torch.no_grad():
        prepared = small_model.prepare(small_model.condition(random_conditions(5), 64), 64, cfg_scale)
        whole = small_model.velocity(x, t, prepared)
        whole_at_one_level = small_model.velocity(x, 0.5, prepared)
        rows: list[int] = []
        small_model.dit.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
        # Two samples (one guided pair) of the largest temporary: 65 tokens x 512 numbers x 4 bytes.
        monkeypatch.setattr(model_module, "CPU_BLOCK_BYTES", 2 * 65 * 512 * 4)
        torch.testing.assert_close(small_model.velocity(x, t, prepared), whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(small_model.velocity(x, 0.5, prepared), whole_at_one_level, atol=1e-5, rtol=0)
    assert rows == ([2, 2, 1] if cfg_scale == 1 else [1] * 5) * 2
    rows.clear()
    small_model.velocity(x, t, prepared)
    assert rows == [5]
