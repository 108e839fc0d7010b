"""The autoencoder's learner and its discriminator: losses by hand, turns, exact resumption."""

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foundation.checkpoint import write_tensors
from foundation.errors import CheckpointError
from foundation.oobleck import Oobleck
from trainer.autoencoder import AutoencoderConfig, AutoencoderLearner, LossWeights
from trainer.discriminator import Discriminator, StftDiscriminator
from trainer.errors import DivergenceError

SMALL = AutoencoderConfig(
    batch=4, frames=64, lr=1e-3, discriminator_lr=2e-3, warmup=0.0, filters=2, resolutions=(256, 64),
    discriminator_resolutions=(256, 128), ema_beta=0.5,
)  # fmt: skip


def codec(seed: int = 0) -> Oobleck:
    torch.manual_seed(seed)
    return Oobleck(channels=3, width=4, multiples=(1, 2), strides=(2, 4))


def learner(config: AutoencoderConfig = SMALL, seed: int = 0) -> AutoencoderLearner:
    return AutoencoderLearner(codec(seed), config)


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return 0.3 * torch.randn(4, 2, 512, generator=generator), torch.randn(4, 3, 64, generator=generator)


def weights(made: AutoencoderLearner) -> dict[str, Tensor]:
    return {
        f"{turn}/{name}": parameter.detach().clone()
        for turn, named in made.parameters.items()
        for name, parameter in named.items()
    }


def changed(before: dict[str, Tensor], made: AutoencoderLearner) -> set[str]:
    return {name.split("/")[0] for name, tensor in weights(made).items() if not torch.equal(before[name], tensor)}


def test_released_discriminator_layout() -> None:
    """Five scales of five 64-filter layers over real and imaginary parts of two channels, and one output each."""
    with torch.device("meta"):
        made = Discriminator()
    first, middle, last, judge = 64 * (4 * 27 + 2), 3 * 64 * (64 * 27 + 2), 64 * (64 * 9 + 2), 64 * 9 + 2
    assert sum(p.numel() for p in made.parameters()) == 5 * (first + middle + last + judge)


def test_logits_per_frame_and_bin() -> None:
    logits, outputs = StftDiscriminator(2, filters=3, size=64)(torch.zeros(2, 2, 64 + 7 * 16))
    assert logits.shape == (2, 1, 8, 33)
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 33)] * 5


@pytest.mark.parametrize("bias", [-3.0, -0.5, 0.0, 2.0])
def test_hinge_losses_by_hand(bias: float) -> None:
    made = Discriminator(2, 2, (64,))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.fill_(bias if name.endswith("judge.bias") else 0.0 if "original1" not in name else 1.0)
    real, fake = batch()[0][:2], batch(1)[0][:2].requires_grad_()
    own = made.own_loss(real, fake)
    assert own.item() == pytest.approx(max(0, 1 - bias) + max(0, 1 + bias))
    own.backward()
    assert fake.grad is None
    adversarial, matching = made.autoencoder_losses(real, fake)
    assert adversarial.item() == pytest.approx(-bias)
    assert matching.item() == 0


def test_the_same_sound_matches_itself() -> None:
    made = Discriminator(2, 2, (128, 64))
    sound = batch()[0]
    assert made.autoencoder_losses(sound, sound)[1].item() == 0
    assert made.autoencoder_losses(sound, batch(1)[0])[1].item() > 0


def test_distance_of_the_latents_from_a_unit_normal_by_hand() -> None:
    """With mean m and deviation s everywhere it is channels (m^2 + s^2 - 2 ln s - 1)."""
    made = learner(SMALL.model_copy(update={"adversary_from": 9}))
    last = dict(made.codec.encoder.conv2.named_parameters())
    mean, scale = 0.3, 0.4
    with torch.no_grad():
        last["weight_g"].zero_()
        last["bias"].copy_(torch.tensor([mean] * 3 + [scale] * 3))
    deviation = math.log1p(math.exp(scale)) + 1e-4
    record = made.step(*batch())
    assert record["kl"] == pytest.approx(3 * (mean**2 + deviation**2 - 2 * math.log(deviation) - 1), rel=1e-4)


def test_the_total_is_the_weighted_sum() -> None:
    chosen = LossWeights(spectral=2, waveform=3, kl=0.5, adversarial=0.25, matching=4)
    record = learner(SMALL.model_copy(update={"weights": chosen})).step(*batch())
    parts = ("spectral", "waveform", "kl", "adversarial", "matching")
    assert record["loss"] == pytest.approx(sum(getattr(chosen, name) * record[name] for name in parts), rel=1e-5)


def test_released_weights_and_schedule() -> None:
    config = AutoencoderConfig()
    assert config.weights == LossWeights(spectral=1, waveform=0, kl=1e-4, adversarial=0.1, matching=5)
    assert (config.lr, config.discriminator_lr, config.betas) == (1.5e-4, 3e-4, (0.8, 0.99))
    made = learner(SMALL.model_copy(update={"warmup": 0.5, "inv_gamma": 2.0}))
    rates = [made.step(*batch())["lr"] for _ in range(4)]
    assert rates == pytest.approx([5e-4, 1e-3, 0.75e-3 * 1.5**-0.5, 1.5e-3 * 1.5**-0.5])


@given(start=st.integers(0, 6), steps=st.integers(0, 20))
@settings(max_examples=30)
def test_turns_and_updates_agree(start: int, steps: int) -> None:
    made = object.__new__(AutoencoderLearner)
    made.config = SMALL.model_copy(update={"adversary_from": start})
    turns = []
    for made.version in range(steps):
        assert made.updates(made.turn) == turns.count(made.turn)
        turns.append(made.turn)
    assert turns[: start + 1] == ["autoencoder"] * min(start + 1, steps)
    assert all(a != b for a, b in zip(turns[start:], turns[start + 1 :], strict=False))


def test_only_the_side_whose_turn_it_is_moves() -> None:
    made = learner()
    for turn in ("autoencoder", "discriminator", "autoencoder"):
        before = weights(made)
        assert made.step(*batch())["turn"] == turn
        assert changed(before, made) == {turn}


def test_the_adversary_joins_later() -> None:
    made = learner(SMALL.model_copy(update={"adversary_from": 2}))
    records = [made.step(*batch(step)) for step in range(4)]
    assert [record["turn"] for record in records] == ["autoencoder"] * 3 + ["discriminator"]
    assert ["matching" in record for record in records] == [False, False, True, False]


def test_a_frozen_encoder_keeps_its_latents() -> None:
    made = learner(SMALL.model_copy(update={"train_encoder": False, "adversary_from": 9}))
    before = copy.deepcopy(made.codec)
    made.step(*batch())
    assert torch.equal(made.codec.encode(batch()[0]), before.encode(batch()[0]))
    assert not torch.equal(made.codec.decode(batch()[1]), before.decode(batch()[1]))


@pytest.mark.parametrize("steps", [1, 2])
def test_passes_add_up(steps: int) -> None:
    whole, parts = learner(), learner(SMALL.model_copy(update={"per_pass": 3}))
    for step in range(steps):
        a, b = whole.step(*batch(step)), parts.step(*batch(step))
    assert {n: v for n, v in b.items() if n != "turn"} == pytest.approx(
        {n: v for n, v in a.items() if n != "turn"}, rel=1e-3, abs=1e-5
    )


def test_shares_of_two_ranks_add_up_to_the_whole() -> None:
    """Each rank's gradient and losses are its share of the batch's, so that their sum over ranks is the mean."""

    class Recording:
        rank, world = 0, 2

        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def sum_(self, tensors) -> None:
            self.seen = [tensor.clone() for tensor in tensors]

        def max_(self, tensor) -> None:
            raise AssertionError

    sounds, noise = batch()
    seen = []
    for rows in (slice(0, 3), slice(3, 4), slice(0, 4)):
        ranks = Recording()
        AutoencoderLearner(codec(), SMALL, ranks)
        torch.manual_seed(7)  # the same discriminator for all
        made = AutoencoderLearner(codec(), SMALL, ranks)
        made.step(sounds[rows], noise[rows])
        seen.append(ranks.seen)
    for first, second, whole in zip(*seen, strict=True):
        torch.testing.assert_close(first + second, whole, rtol=1e-3, atol=1e-4 * (1 + whole.abs().max().item()))


def test_training_makes_it_better() -> None:
    made = learner(SMALL.model_copy(update={"lr": 3e-3}))
    time = torch.arange(512) / 44_100
    sounds = torch.stack([torch.sin(2 * math.pi * f * time) for f in (440, 880, 1320, 2200)])[:, None].repeat(1, 2, 1)
    noise = torch.zeros(4, 3, 64)
    first = made.validate(sounds)["spectral"]
    for _ in range(60):
        made.step(sounds, noise)
    assert made.validate(sounds)["spectral"] < 0.7 * first


def test_resumption_is_exact(tmp_path: Path) -> None:
    straight = learner()
    for step in range(6):
        straight.step(*batch(step))
    half = learner()
    for step in range(3):
        half.step(*batch(step))
    half.save(tmp_path / "half.safetensors", {"seed": 5})
    again = learner(seed=9)
    assert again.restore(tmp_path / "half.safetensors")["seed"] == 5
    for step in range(3, 6):
        again.step(*batch(step))
    assert again.version == 6
    assert again.ema.steps == straight.ema.steps == 3
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(again).items())
    assert all(torch.equal(tensor, straight.ema.shadow[name]) for name, tensor in again.ema.shadow.items())


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"w": torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="no checkpoint of an autoencoder's training"):
        learner().restore(path)
    learner().save(path, {})
    with pytest.raises(CheckpointError, match=r"discriminator/.* should be .* Resume with the model and the recipe"):
        learner(SMALL.model_copy(update={"filters": 3})).restore(path)


def test_a_gradient_that_is_not_finite_ends_training_before_it_does_harm() -> None:
    made = learner()
    before = weights(made)
    sounds, noise = batch()
    sounds[0, 0, 5] = float("nan")
    with pytest.raises(DivergenceError, match="autoencoder's gradient at step 0"):
        made.step(sounds, noise)
    assert changed(before, made) == set()


def test_reduced_precision_stays_close() -> None:
    exact = learner(SMALL.model_copy(update={"adversary_from": 9})).step(*batch())
    made = learner(SMALL.model_copy(update={"adversary_from": 9, "precision": "bf16"}))
    reduced = made.step(*batch())
    assert reduced["spectral"] == pytest.approx(exact["spectral"], rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in made.codec.parameters())
