"""Supervised training: that it learns, resumes to the bit, and that ranks and passes change nothing."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.build import load_model
from foundation.checkpoint import read_metadata, read_tensors
from foundation.conditions import Conditions
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig
from media.features import VIDEO, FeatureError, FeatureStore
from tests.trainer.builders import TINY, tiny_model
from tests.trainer.features import NAMES, supervised, write_store
from tests.trainer.test_ranks import Threads
from trainer import checkpoints
from trainer.errors import DivergenceError
from trainer.feature_batches import Batch, Draws, FeatureBatches, LoaderConfig, Pass
from trainer.flow_matching import FlowMatching, FlowMatchingConfig, flow_matching_loss, trained
from trainer.loop import Outcome
from trainer.shuffle import Shuffle
from trainer.supervised import ValidationConfig, fit


def weights(outcome: Outcome, name: str = checkpoints.MODEL) -> dict[str, torch.Tensor]:
    return read_tensors(Path(outcome.checkpoint) / name)[0]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def random_pass(count: int = 6) -> Pass:
    draw = torch.Generator().manual_seed(0)
    shapes = (2, TINY.video_dim), (3, TINY.text_dim), (8, TINY.sync_dim)
    features = Conditions(*(torch.randn(count, *shape, generator=draw) for shape in shapes))
    latents, noise = (torch.randn(count, TINY.latent_channels, 8, generator=draw) for _ in range(2))
    keep = torch.zeros(count, dtype=torch.bool)
    return Pass(features, latents, noise, torch.linspace(0.1, 0.9, count), (keep, keep, keep), keep)


def test_the_loss_is_that_of_the_straight_path_by_hand() -> None:
    model, part = tiny_model(), random_pass()
    for level in (None, 0.25):
        losses = flow_matching_loss(model, part, level)
        for k in range(len(part)):
            one, t = slice(k, k + 1), part.times[k].item() if level is None else level
            x0, eps = part.latents[one], part.noise[one]
            prepared = model.prepare(model.condition(part.features[one], 8), 8)
            v = model.velocity((1 - t) * x0 + t * eps, t, prepared)
            assert losses[k].item() == pytest.approx(((v - (eps - x0)) ** 2).mean().item(), rel=1e-4)


def test_a_dropped_path_is_a_null_condition() -> None:
    model, part = tiny_model(), random_pass()
    none, every = part.unseen, ~part.unseen
    dropped = flow_matching_loss(model, replace(part, drop=(every, every, every)))
    length = part.latents.shape[-1]
    conditioned = Conditions(*(torch.zeros_like(t) for t in vars(model.condition(part.features, length)).values()))
    x = torch.lerp(part.latents, part.noise, part.times[:, None, None])
    v = model.velocity(x, part.times, model.prepare(conditioned, length))
    torch.testing.assert_close(dropped, (v - (part.noise - part.latents)).square().mean((1, 2)))
    assert not torch.allclose(dropped, flow_matching_loss(model, replace(part, drop=(none, every, every))))


def test_one_batch_is_learned_by_heart() -> None:
    config = FlowMatchingConfig(batch=6, lr=1e-2, warmup=0.9, ema_beta=0.9)
    learner, batch = FlowMatching(tiny_model(), config), Batch(0, (random_pass(),))
    losses = [learner.step(batch)["loss"] for _ in range(300)]
    assert losses[-1] < 0.05 * losses[0]
    with learner.ema.applied(learner.parameters):
        assert flow_matching_loss(learner.model, batch.passes[0]).mean().item() < 0.1 * losses[0]


def test_everything_that_a_forward_pass_reads_is_trained() -> None:
    model, part = tiny_model(), random_pass()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    FlowMatching(model, FlowMatchingConfig(batch=6)).step(Batch(0, (part,)))
    still = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert {name for name in still if not name.endswith(("beta", "inv_freq"))} == {
        "model.model.empty_clip_feat",
        "model.model.empty_sync_feat",
        *(name for name in before if ".proj_out." in name),
    }
    assert not any(name.startswith("conditioner") for name in trained(model, conditioners=False))


def test_passes_do_not_change_a_step() -> None:
    whole, part = FlowMatching(tiny_model(), FlowMatchingConfig(batch=6, lr=1e-3)), random_pass()
    cut = FlowMatching(tiny_model(), FlowMatchingConfig(batch=6, lr=1e-3))
    halves = []
    for s in (slice(0, 4), slice(4, 6)):
        drop = part.drop[0][s], part.drop[1][s], part.drop[2][s]
        halves.append(Pass(part.features[s], part.latents[s], part.noise[s], part.times[s], drop, part.unseen[s]))
    one, two = whole.step(Batch(0, (part,))), cut.step(Batch(0, tuple(halves)))
    assert one == pytest.approx(two, rel=1e-4)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(cut.parameters[name].grad, parameter.grad, atol=2e-6, rtol=1e-4)


def test_the_gradient_is_the_mean_over_what_could_be_read() -> None:
    full = FlowMatching(tiny_model(), FlowMatchingConfig(batch=6, grad_clip=1e9))
    short = FlowMatching(tiny_model(), FlowMatchingConfig(batch=8, grad_clip=1e9))
    expected = full.step(Batch(0, (random_pass(),)))
    got = short.step(Batch(0, (random_pass(),), (("a", "gone"), ("b", "gone"))))
    assert got == pytest.approx({**expected, "skipped": 2.0}, rel=1e-5)
    before = short.export()
    empty = short.step(Batch(1, (), (("c", "gone"),)))
    assert empty["examples"] == 0
    assert np.isnan(empty["loss"])
    assert short.version == 2
    assert all(np.array_equal(value, before[name]) for name, value in short.export().items())


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_train_as_one(tmp_path, world) -> None:
    """One global batch, split over ranks, with clips of two lengths and texts of four."""
    examples = write_store(tmp_path)
    config = FlowMatchingConfig(batch=7, lr=1e-3, warmup=0.0, condition_dropout=0.3)
    together = Threads(world)

    def train(rank: int, world: int, learner: FlowMatching) -> list[dict[str, float]]:
        draws = Draws(1, config.condition_dropout, config.timesteps)
        shuffle = Shuffle(len(examples), config.batch, 1)
        batches = FeatureBatches(str(tmp_path), NAMES, examples, shuffle, draws, TINY, None, rank, world)
        return [learner.step(batches.at(step)) for step in range(4)]

    alone = FlowMatching(tiny_model(), config)
    ranks = [FlowMatching(tiny_model(), config, together.at(rank)) for rank in range(world)]
    seen: dict[int, list[dict[str, float]]] = {}

    def work(rank: int) -> None:
        seen[rank] = train(rank, world, ranks[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = train(0, 1, alone)
    assert all(seen[rank] == seen[0] for rank in range(world))
    for got, record in zip(seen[0], expected, strict=True):
        assert got == pytest.approx(record, rel=1e-3)
    for name, parameter in alone.parameters.items():
        assert torch.equal(ranks[0].parameters[name], ranks[1].parameters[name])
        torch.testing.assert_close(ranks[0].parameters[name], parameter, atol=2e-4, rtol=0)


def test_it_learns_and_says_so(tmp_path) -> None:
    seen: list[dict] = []
    changes = {"iterations": 80, "eval_every": 20, "checkpoint_every": 0}
    config = supervised(tmp_path, learner=changes, training={"batch": 9, "warmup": 0.9, "lr": 1e-2})
    outcome = fit(replace(config, on_step=seen.append))
    assert (outcome.version, outcome.stopped, outcome.totals.samples) == (80, False, 80 * 9)
    assert [line["version"] for line in seen] == list(range(1, 81))
    assert config.journal.records() == seen
    losses = [line["loss"] for line in seen]
    assert sum(losses[-15:]) < 0.6 * sum(losses[:15])
    validation = [line["validation"] for line in seen if "validation" in line]
    assert len(validation) == 4
    assert all(entry["examples"] == 3 and len(entry["levels"]) == 5 for entry in validation)
    assert seen[-1]["epoch"] == 80.0
    assert seen[0]["lr"] == pytest.approx(1e-3)
    made = load_model(Path(outcome.checkpoint) / checkpoints.EMA)
    assert made.extra["words"] == ["toy"]
    assert made.extra["training"] == {"version": 80, "seed": 3}


def test_stop_and_resume_equals_an_uninterrupted_run_to_the_bit(tmp_path) -> None:
    examples = write_store(tmp_path / "straight" / "features")
    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    config = supervised(tmp_path / "straight", examples, learner={"iterations": 7})
    straight = fit(config)
    config = supervised(tmp_path / "cut", examples, learner={"iterations": 7})
    count = iter(range(100))
    first = fit(replace(config, stop=lambda: next(count) == 2))
    assert (first.version, first.stopped) == (3, True)
    # As after a crash: steps beyond the newest checkpoint are trained and written again.
    shutil.rmtree(config.checkpoints / checkpoints.name(3))
    second = fit(config)
    assert (second.version, second.stopped) == (7, False)
    for name in (checkpoints.MODEL, checkpoints.EMA, checkpoints.OPTIMISER):
        assert equal(weights(second, name), weights(straight, name)), name
    plain = [{k: v for k, v in line.items() if k != "seconds"} for line in config.journal.records()]
    other = supervised(tmp_path / "straight", examples).journal.records()
    assert plain == [{k: v for k, v in line.items() if k != "seconds"} for line in other]
    assert second.totals.samples == straight.totals.samples == 35


def test_workers_share_every_batch_and_stop_when_asked(tmp_path, ray_session) -> None:
    examples = write_store(tmp_path / "one" / "features")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    alone = supervised(tmp_path / "one", examples)
    expected = fit(alone)
    seen: list[dict] = []
    changes = {"num_workers": 2, "iterations": 100_000, "keep_checkpoints": 100_000}
    config = supervised(tmp_path / "two", examples, learner=changes)
    outcome = fit(replace(config, on_step=seen.append, stop=lambda: len(seen) >= 4))
    assert outcome.stopped
    assert 4 <= outcome.version < 100_000
    assert [line["version"] for line in seen] == list(range(1, outcome.version + 1))
    assert outcome.totals.samples == 5 * outcome.version
    made = read_tensors(config.checkpoints / checkpoints.name(4) / checkpoints.MODEL)[0]
    for name, tensor in weights(expected).items():
        torch.testing.assert_close(made[name], tensor, atol=5e-4, rtol=0)
    for got, line in zip(seen, alone.journal.records(), strict=False):
        assert got["loss"] == pytest.approx(line["loss"], rel=1e-2)
        if "validation" in line:
            assert got["validation"]["loss"] == pytest.approx(line["validation"]["loss"], rel=1e-2)


def test_adapters_alone_are_trained_and_merged_into_what_is_written(tmp_path) -> None:
    config = supervised(tmp_path, lora=LoraConfig(rank=2, alpha=4), execution=ExecutionConfig(precision="bf16"))
    outcome = fit(config)
    start = load_model(config.model_path).model.state_dict()
    made = load_model(Path(outcome.checkpoint) / checkpoints.EMA).model.state_dict()
    changed = {name for name in start if not torch.equal(start[name], made[name])}
    assert changed
    assert all(".layers." in name and name.endswith("weight") for name in changed)


def test_too_much_that_cannot_be_read_ends_training(tmp_path) -> None:
    config = supervised(tmp_path)
    part = sorted((tmp_path / "features" / f"encoder={NAMES.audio}").iterdir())[0]
    data = bytearray(part.read_bytes())
    data[4:40] = bytes(36)
    part.write_bytes(bytes(data))
    with pytest.raises(FeatureError, match=r"could not be read, more than loader\.max_skipped_share"):
        fit(config)
    shutil.rmtree(config.checkpoints, ignore_errors=True)
    outcome = fit(replace(config, loader=LoaderConfig(max_skipped_share=0.9)))
    assert outcome.totals.dropped["unreadable"] > 0
    assert outcome.totals.samples + outcome.totals.dropped["unreadable"] == 20
    named = config.skipped(0).records()
    assert len(named) == outcome.totals.dropped["unreadable"]
    assert all(part.name in line["reason"] for line in named)


def test_features_of_another_model_are_an_error(tmp_path) -> None:
    config = supervised(tmp_path)
    store = FeatureStore(tmp_path / "features")
    store.write("other-1", {clip: {VIDEO: np.ones((2, 9))} for clip in store.ids(NAMES.video)})
    encoders = NAMES.model_copy(update={"video": "other-1"})
    with pytest.raises(FeatureError, match=r"\(9, 4, 6, 3\) channels, but the model needs \(5, 4, 6, 3\)"):
        fit(replace(config, encoders=encoders))


def test_divergence_is_an_error_and_keeps_the_weights(tmp_path) -> None:
    config = supervised(tmp_path, training={"lr": 1e20, "warmup": 0.0, "grad_clip": 1e30})
    with pytest.raises(DivergenceError, match=r"lower training\.lr"):
        fit(config)


def test_another_seed_does_not_continue_a_run(tmp_path) -> None:
    config = supervised(tmp_path)
    fit(config)
    with pytest.raises(Exception, match="resume with seed=3"):
        fit(replace(config, seed=4))


def test_validation_depends_on_the_weights_alone(tmp_path) -> None:
    found = []
    for batch, prefetch in ((2, 0), (5, 2)):
        folder = tmp_path / str(batch)
        config = supervised(
            folder,
            training={"batch": batch, "lr": 1e-30},
            loader=LoaderConfig(prefetch=prefetch),
            validation=ValidationConfig(levels=(0.2, 0.8)),
        )
        fit(config)
        found += [line["validation"]["levels"] for line in config.journal.records() if "validation" in line]
    assert len(found) == 4
    # The length texts are padded to differs with the batch, and the model sees it.
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[2] == pytest.approx(found[3], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=0.2)


def test_the_checkpoint_says_where_it_comes_from(tmp_path) -> None:
    outcome = fit(supervised(tmp_path, extra={"release": "/models/prismaudio"}))
    extra = read_metadata(Path(outcome.checkpoint) / checkpoints.EMA)["extra"]
    assert extra["release"] == "/models/prismaudio"
