"""Flat state dicts: round trips in order, dimensions from shapes, and every way a file can be wrong."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from foundation.config import ModelConfig
from foundation.errors import CheckpointError
from foundation.flat import FLOW, compare, load_strict, model_config, read_flat, write_flat
from foundation.model import FlowModel
from tests.foundation.released import released_names

ODD = {"z": torch.arange(6.0).view(2, 3), "a": torch.ones(3).half(), "m": torch.tensor([1, 2]), "b": torch.tensor(2.0)}


def forged(**sizes: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return FlowModel(ModelConfig(**{"depth": 2, "heads": 2, **sizes})).state_dict()


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".safetensors"])
def test_round_trip_in_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deeper/file{suffix}"
    write_flat(path, ODD)
    read = read_flat(path)
    assert list(read) == list(ODD)
    assert all(torch.equal(read[name], ODD[name]) and read[name].dtype == ODD[name].dtype for name in ODD)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    write_flat(tmp_path / f"other{suffix}", read)
    assert (tmp_path / f"other{suffix}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_views_and_shared_tensors_are_written_alone(tmp_path: Path, suffix: str) -> None:
    base = torch.arange(1000.0)
    path = tmp_path / f"file{suffix}"
    write_flat(path, {"part": base[:10], "again": base[:10], "turned": base[:6].view(2, 3).T})
    assert path.stat().st_size < 3000
    assert torch.equal(read_flat(path)["turned"], base[:6].view(2, 3).T)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_the_file_is_mapped_and_never_written_to(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    write_flat(path, {"w": torch.ones(1000, 1000)})
    read = read_flat(path)
    with open("/proc/self/maps") as maps:
        assert str(path) in maps.read()
    read["w"].zero_()
    assert torch.equal(read_flat(path)["w"], torch.ones(1000, 1000))


def test_lightning_files_and_chosen_names(tmp_path: Path) -> None:
    path = tmp_path / "vae.ckpt"
    torch.save({"state_dict": {"autoencoder.w": torch.ones(2), "loss.w": torch.ones(1)}, "epoch": 3, "lr": [0.1]}, path)
    assert list(read_flat(path)) == ["autoencoder.w", "loss.w"]
    assert list(read_flat(path, only=["autoencoder."])) == ["autoencoder.w"]
    write_flat(path, {"autoencoder.w": torch.ones(2)}, key="state_dict")
    assert list(torch.load(path, weights_only=True)) == ["state_dict"]
    assert list(read_flat(path)) == ["autoencoder.w"]


def test_files_of_older_torch(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(ODD, path, _use_new_zipfile_serialization=False)
    assert list(read_flat(path)) == list(ODD)


def test_safetensors_of_others(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(ODD, path, {"order": "7"})
    assert read_flat(path).keys() == ODD.keys()


class Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/should-not-exist-prism",)


def test_pickles_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"w": Attack()}, path)
    with pytest.raises(CheckpointError, match="can run any code"):
        read_flat(path)
    path.write_bytes(pickle.dumps({"w": Attack()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        read_flat(path)
    assert not Path("/tmp/should-not-exist-prism").exists()


def test_what_is_not_a_dict_of_finite_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    for content, message in (
        ([torch.ones(1)], "holds a list"),
        ({}, "holds a dict"),
        ({"a": torch.ones(1), "steps": 3}, "not tensors: steps"),
        ({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}, "NaN or infinite values in bad"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=message):
            read_flat(path)
    with pytest.raises(CheckpointError, match="NaN or infinite values in worse"):
        write_flat(tmp_path / "new.ckpt", {"worse": torch.tensor(float("inf"))})
    assert not (tmp_path / "new.ckpt").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 3, 100, -50])
def test_files_cut_short(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"file{suffix}"
    write_flat(path, {"w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=rf"file{suffix} \(\d+ bytes\)"):
        read_flat(path)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        read_flat(tmp_path)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_flat(tmp_path / "no.ckpt")
    other = tmp_path / "weights.bin"
    other.touch()
    with pytest.raises(CheckpointError, match=r"ends in '\.bin'; expected one of \.ckpt"):
        read_flat(other)
    with pytest.raises(CheckpointError, match="must end in one of"):
        write_flat(other, ODD)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"file{suffix}"
    write_flat(path, ODD)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_flat(path, {"w": torch.zeros(3)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_released_dimensions() -> None:
    with torch.device("meta"):
        state = FlowModel(ModelConfig.released()).state_dict()
    assert model_config(state) == ModelConfig.released()


@given(
    heads=st.integers(1, 3),
    head=st.sampled_from([32, 64, 96]),
    depth=st.integers(1, 3),
    ff_mult=st.integers(1, 4),
    channels=st.integers(1, 9),
    video=st.integers(1, 70),
    sync=st.integers(1, 70),
    segment=st.integers(1, 9),
    features=st.sampled_from([2, 8, 256]),
)
@settings(max_examples=25)
def test_dimensions_are_read_back(heads, head, depth, ff_mult, channels, video, sync, segment, features) -> None:
    config = ModelConfig(
        heads=heads, width=heads * head, depth=depth, ff_mult=ff_mult, latent_channels=channels, video_dim=video,
        text_dim=video + 1, sync_dim=sync, sync_segment=segment, timestep_features=features,
    )  # fmt: skip
    with torch.device("meta"):
        assert model_config(FlowModel(config).state_dict()) == config


def load(tensors: dict[str, torch.Tensor]) -> FlowModel:
    with torch.device("meta"):
        model = FlowModel(model_config(tensors))
    load_strict(model, tensors, "the file")
    return model


@given(data=st.data())
@settings(max_examples=40)
def test_every_wrong_tensor_is_named(data: st.DataObject) -> None:
    tensors = forged()
    names = st.sampled_from(sorted(tensors))
    missing = data.draw(st.sets(names, max_size=8))
    misshaped = data.draw(st.sets(names, max_size=8)) - missing
    extra = data.draw(st.sets(st.sampled_from(["model.model.x", "y", "pretransform.z", "conditioner.w"])))
    shapes = {name: tuple(tensors[name].shape) for name in misshaped}
    for name in missing:
        del tensors[name]
    for name in misshaped:
        tensors[name] = tensors[name][None]
    tensors |= {name: torch.zeros(1) for name in extra}
    if not missing | misshaped | extra:
        assert load(tensors).config == ModelConfig()
        return
    with pytest.raises(CheckpointError) as caught:
        load(tensors)
    message = str(caught.value)
    for names, kind in ((missing, "missing"), (extra, "unexpected"), (misshaped, "other dimensions")):
        if names:
            listed = message.split(f"{kind} ({len(names)}): ")[1].split("; ")[0]
            assert all(name in listed for name in names)
    for name, shape in shapes.items():
        assert f"{name} is {(1, *shape)}, expected {shape}" in message


def test_a_wrong_number_in_one_tensor_is_that_tensors_fault() -> None:
    for name in (
        "model.model.transformer.project_in.weight",
        "model.model.transformer.layers.1.self_attn.q_norm.weight",
    ):
        tensors = forged()
        tensors[name] = torch.zeros(*(size + 1 for size in tensors[name].shape))
        with pytest.raises(CheckpointError, match=rf"other dimensions \(1\): {name} is"):
            load(tensors)


def test_a_wholly_different_file_gives_a_short_message() -> None:
    with pytest.raises(CheckpointError, match="No flow model here"):
        model_config({f"resnet.{i}": torch.zeros(1) for i in range(900)})
    with pytest.raises(CheckpointError, match=r"missing \(850\).* and 800 more"):
        compare({name: torch.zeros(1) for name in released_names()}, {}, "it")


def test_tensors_that_fit_no_model() -> None:
    tensors = forged()
    tensors = {name: t[:20] if name.endswith(("q_norm.weight", "k_norm.weight")) else t for name, t in tensors.items()}
    with pytest.raises(CheckpointError, match="describe no model"):
        model_config(tensors)


def test_the_prefixes_are_the_flow_models() -> None:
    assert all(name.startswith(FLOW) for name in forged())
