import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation import checkpoint
from foundation.errors import CheckpointError
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig, inject, merged
from tests.trainer.builders import WEIGHTS, algorithm, sample_groups, tiny_model
from trainer import checkpoints
from trainer.batch import IterationBatch
from trainer.config import OptimiserConfig
from trainer.totals import Totals
from trainer.update import Learner
from trainer.windows import SpreadHistory, observe, window

CONFIG = algorithm(window_size=2)
SEED = 9


@pytest.fixture
def base(tmp_path: Path) -> checkpoint.Checkpoint:
    path = tmp_path / "start.safetensors"
    checkpoint.save(path, tiny_model(), {"words": ["toy"]}, {"encoders.weight": torch.ones(2)})
    return checkpoint.load(path)


def fresh(config=CONFIG, lora: LoraConfig | None = None, **execution) -> Learner:
    model = inject(tiny_model(), lora) if lora else tiny_model()
    how = ExecutionConfig.model_validate(execution)
    return Learner(model, config, OptimiserConfig(lr=2e-3), WEIGHTS, execution=how)


def train(learner: Learner, until: int, history: SpreadHistory | None = None) -> list[dict]:
    """Iterations of the loop without its actors."""
    history = history or SpreadHistory()
    history.states.setdefault(learner.version, {})
    found = []
    for i in range(learner.version, until):
        groups = sample_groups(learner.model, learner.algorithm, SEED, i, spreads=history.at(i))
        for group in groups:
            group.weights_checksum = learner.checksums[i]
        metrics = learner.update(IterationBatch.of(i, groups))
        start = groups[0].window.start
        history.put(i + 1, observe(history.states[i], start, metrics["reward_spread"]))
        found.append({**metrics, "start": start})
    return found


def save(folder: Path, learner: Learner, base: checkpoint.Checkpoint, keep: int = 3, spreads=None) -> Path:
    totals = Totals(iterations=learner.version, trained=3)
    return checkpoints.write(folder, learner, base, SEED, totals, keep, spreads)


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    state = {f"w/{name}": parameter.detach() for name, parameter in learner.parameters.items()}
    state |= {f"e/{name}": value for name, value in learner.ema.shadow.items()}
    return state | {f"m/{name}": value for name, value in checkpoints._moments(learner).items()}


RESUMED = [
    {},
    {"kl_beta": 0.1, "kl_space": "x", "trust_region": "kl", "epochs": 2},
    {"window_policy": "stratified"},
    {"window_policy": "proportional"},
]


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("changes", RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path, base, changes, lag):
    config = algorithm(window_size=2, **changes)
    straight, history = fresh(config), SpreadHistory(lag)
    expected = train(straight, 7, history)

    first, until_then = fresh(config), SpreadHistory(lag)
    train(first, 3, until_then)
    path = save(tmp_path / "c", first, base, spreads=until_then.states)
    second = fresh(config)
    state = checkpoints.restore(path, second, SEED)
    assert (state.version, second.version, second.ema.steps) == (3, 3, 3 * config.epochs * config.minibatches)
    assert state.totals == Totals(iterations=3, trained=3)
    continued = SpreadHistory(lag, state.spreads)
    assert train(second, 7, continued) == expected[3:]
    assert continued.states == history.states
    assert second.checksums[7] == straight.checksums[7]
    left, right = everything(straight), everything(second)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_resumption_is_exact_at_full_size_settings_too(tmp_path, base, lora, precision):
    """With adapters and their reference, in bfloat16, with activation checkpointing, members in parts."""
    config = algorithm(window_size=2, kl_beta=0.1, samples_per_pass=2, ratio_tolerance=1.0)
    how = {"precision": precision, "activation_checkpointing": True}
    straight, first, second = (fresh(config, lora, **how) for _ in range(3))
    expected = train(straight, 5)
    train(first, 2)
    path = save(tmp_path, first, base)
    assert checkpoints.restore(path, second, SEED).version == 2
    assert train(second, 5) == expected[2:]
    assert second.checksums[5] == straight.checksums[5]
    left, right = everything(straight), everything(second)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_adapters_leave_small_files_and_one_whole_model(tmp_path, base):
    lora = LoraConfig(rank=2, targets=("self_attn.to_qkv", "ff.out"))
    learner = fresh(lora=lora)
    train(learner, 2)
    path = save(tmp_path, learner, replace(base, extra={"release": "/somewhere"}, others={}))
    assert sorted(os.listdir(path)) == [
        "adapters.safetensors",
        "adapters_ema.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    small = sum(p.nbytes for p in learner.parameters.values())
    assert (path / "adapters.safetensors").stat().st_size < small + 4096
    found = checkpoint.load(path / "ema.safetensors")
    assert found.extra["release"] == "/somewhere"
    assert found.extra["training"] == {"version": 2, "seed": SEED, "lora": lora.model_dump(mode="json")}
    assert found.others == {}
    start = base.model.state_dict()
    changed = {name for name, tensor in found.model.state_dict().items() if not torch.equal(tensor, start[name])}
    assert changed == {f"model.model.transformer.layers.0.{name}.weight" for name in ("self_attn.to_qkv", "ff.ff.2")}
    with learner.ema.applied(learner.parameters):
        expected = merged(learner.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())


def test_another_set_of_adapters_is_refused(tmp_path, base):
    with_adapters = save(tmp_path / "a", fresh(lora=LoraConfig(rank=2)), base)
    without = save(tmp_path / "b", fresh(), base)
    with pytest.raises(CheckpointError, match="this run has no adapters"):
        checkpoints.restore(with_adapters, fresh(), SEED)
    with pytest.raises(CheckpointError, match=r"'alpha': 64\.0.*this run has adapters .*'alpha': 1\.0"):
        checkpoints.restore(with_adapters, fresh(lora=LoraConfig(rank=2, alpha=1.0)), SEED)
    with pytest.raises(CheckpointError, match="trained with no adapters"):
        checkpoints.restore(without, fresh(lora=LoraConfig(rank=2)), SEED)


def test_windows_in_proportion_to_the_spreads_depend_on_what_was_measured(tmp_path, base):
    """Otherwise the test above would show nothing about them."""
    config = algorithm(window_size=2, window_policy="proportional")
    learner, history = fresh(config), SpreadHistory()
    train(learner, 7, history)
    (measured,) = history.states.values()
    assert len(measured) > 1
    starts = {
        tuple(window(SEED, i, config, spreads).start for i in range(7, 60))
        for spreads in (measured, {0: 1.0, 1: 0.0, 2: 0.0}, {})
    }
    assert len(starts) == 3


@given(
    states=st.dictionaries(
        st.integers(0, 10**6),
        st.dictionaries(st.integers(0, 30), st.floats(0, 1e3), max_size=4),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=10, deadline=None)
def test_spreads_come_back_as_they_were(tmp_path_factory, states):
    folder = tmp_path_factory.mktemp("spreads")
    checkpoint.save(folder / "start.safetensors", tiny_model())
    path = save(folder / "c", fresh(), checkpoint.load(folder / "start.safetensors"), spreads=states)
    assert checkpoints.read_state(path).spreads == states


def test_a_checkpoint_without_spreads_begins_with_none(tmp_path, base):
    learner = fresh()
    train(learner, 2)
    assert checkpoints.read_state(save(tmp_path, learner, base)).spreads == {2: {}}


def test_a_checkpoint_before_the_first_step_is_a_checkpoint(tmp_path, base):
    path = save(tmp_path, fresh(), base)
    learner = fresh()
    assert checkpoints.restore(path, learner, SEED).version == 0
    train(learner, 1)
    straight = fresh()
    train(straight, 1)
    assert learner.checksums[1] == straight.checksums[1]


def test_model_files_are_whole_models(tmp_path, base):
    learner = fresh()
    train(learner, 2)
    path = save(tmp_path, learner, base)
    loaded, average = checkpoint.load(path / "model.safetensors"), checkpoint.load(path / "ema.safetensors")
    assert loaded.extra == {"words": ["toy"], "training": {"version": 2, "seed": SEED}}
    assert torch.equal(loaded.others["encoders.weight"], torch.ones(2))
    for name, parameter in learner.parameters.items():
        assert torch.equal(loaded.model.state_dict()[name], parameter)
        assert torch.equal(average.model.state_dict()[name], learner.ema.shadow[name])
        assert not torch.equal(learner.ema.shadow[name], parameter)


def test_only_the_newest_are_kept_and_half_written_ones_ignored(tmp_path, base):
    learner = fresh()
    assert checkpoints.latest(tmp_path / "none") is None
    for version in range(1, 4):
        train(learner, version)
        save(tmp_path, learner, base, keep=2)
    (tmp_path / ".iter-000009.partial").mkdir()
    (tmp_path / "iter-000008").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoints.latest(tmp_path) == tmp_path / "iter-000003"
    assert not (tmp_path / "iter-000001").exists()
    assert (tmp_path / "iter-000002").exists()


def test_writing_one_again_replaces_it(tmp_path, base):
    learner = fresh()
    train(learner, 1)
    save(tmp_path, learner, base)
    (tmp_path / "iter-000001" / "stray").touch()
    save(tmp_path, learner, base)
    assert sorted(os.listdir(tmp_path / "iter-000001")) == [
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert {name for name in os.listdir(tmp_path) if name.startswith(".")} == set()


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path, base, monkeypatch, call):
    folder = tmp_path / "c"
    learner = fresh()
    train(learner, 1)
    earlier = save(folder, learner, base)
    train(learner, 2)
    before = everything(learner)
    real, calls = os.fsync, iter(range(1, 100))

    def full(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(folder, learner, base)
    monkeypatch.undo()
    assert os.listdir(folder) == [earlier.name]
    assert checkpoints.restore(earlier, fresh(), SEED).version == 1
    # The average was put away again even though writing it failed.
    assert all(torch.equal(before[name], value) for name, value in everything(learner).items())


def damage_state(path: Path) -> None:
    (path / "state.json").write_text("{")


def without_spreads(path: Path) -> None:
    state = json.loads((path / "state.json").read_text())
    del state["spreads"]
    (path / "state.json").write_text(json.dumps(state))


def other_weights(path: Path) -> None:
    shutil.copy(path / "ema.safetensors", path / "model.safetensors")


def truncate(path: Path) -> None:
    content = (path / "optimizer.safetensors").read_bytes()
    (path / "optimizer.safetensors").write_bytes(content[: len(content) // 2])


def not_a_number(path: Path) -> None:
    tensors, metadata = checkpoint.read_tensors(path / "ema.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    # Written around the guard that refuses to write it.
    from safetensors.torch import save_file

    save_file(tensors, path / "ema.safetensors", {"prism": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_state, "not a training checkpoint"),
        (without_spreads, "not a training checkpoint of this version"),
        (other_weights, "two checkpoints"),
        (truncate, "not a complete safetensors file"),
        (not_a_number, "NaN"),
        (lambda path: (path / "ema.safetensors").unlink(), "ema.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, base, damage, message):
    learner = fresh()
    train(learner, 2)
    path = save(tmp_path, learner, base)
    damage(path)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(path, fresh(), SEED)


def test_another_seed_or_another_model_is_refused(tmp_path, base):
    path = save(tmp_path, fresh(), base)
    with pytest.raises(CheckpointError, match=f"resume with seed={SEED}"):
        checkpoints.restore(path, fresh(), SEED + 1)
    wide = tiny_model().config.model_copy(update={"latent_channels": 5})
    other = Learner(type(tiny_model())(wide), CONFIG, OptimiserConfig(), WEIGHTS)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoints.restore(path, other, SEED)
