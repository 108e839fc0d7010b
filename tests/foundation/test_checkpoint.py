"""Checkpoints: round trips, and every way a file can be wrong."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foundation.checkpoint import checksum, load, load_state, save, write_tensors
from foundation.config import ModelConfig
from foundation.errors import CheckpointError
from foundation.model import FlowModel
from tests.foundation.conftest import read_json


@pytest.fixture
def saved(tmp_path: Path, small_model: FlowModel) -> Path:
    path = tmp_path / "model.safetensors"
    save(path, small_model, {"vocabulary": ["a", "ü"], "seed": 3}, {"encoders.w": torch.arange(3.0)})
    return path


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def test_round_trip(saved: Path, small_model: FlowModel) -> None:
    read = load(saved)
    assert read.model.config == small_model.config
    assert read.extra == {"vocabulary": ["a", "ü"], "seed": 3}
    assert read.others.keys() == {"encoders.w"}
    assert not read.model.training
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], tensor)
    assert all(not p.is_meta and p.requires_grad for p in read.model.parameters())
    assert leftovers(saved.parent) == []


def test_same_content_same_bytes(saved: Path, small_model: FlowModel) -> None:
    other = saved.with_name("other.safetensors")
    save(other, small_model, {"seed": 3, "vocabulary": ["a", "ü"]}, {"encoders.w": torch.arange(3.0)})
    assert other.read_bytes() == saved.read_bytes()


def test_released_names_can_be_expressed() -> None:
    keys = read_json("dit_meta.json")["models"]["a"]["keys"]
    config = ModelConfig(latent_channels=64, video_dim=1024, text_dim=1024, sync_dim=768)
    assert {k: list(v.shape) for k, v in FlowModel(config).state_dict().items()} == keys


def broken_files(saved: Path) -> dict[str, bytes]:
    content = saved.read_bytes()
    return {
        "truncated": content[:-100],
        "header only": content[:50],
        "empty": b"",
        "text": b"this is no checkpoint at all",
        "pickle": pickle.dumps({"model": [1, 2, 3]}),
    }


@pytest.mark.parametrize("kind", ["truncated", "header only", "empty", "text", "pickle"])
def test_other_and_truncated_files(saved: Path, kind: str) -> None:
    path = saved.with_name("broken.safetensors")
    path.write_bytes(broken_files(saved)[kind])
    with pytest.raises(CheckpointError, match=r"broken.safetensors .* is not a complete safetensors file"):
        load(path)


def test_no_such_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*nowhere"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no model description"):
        load(tmp_path / "x.safetensors")


def test_unknown_dimensions(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(2)}, {"config": {"widht": 64}})
    with pytest.raises(CheckpointError, match="widht"):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path: Path, saved: Path, small_model: FlowModel, bad: float) -> None:
    with torch.no_grad():
        small_model.dit.transformer.gate[0, 0, 3] = bad
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=r"Refusing to write.*transformer.gate"):
        save(saved, small_model)
    assert saved.read_bytes() == before

    metadata = {"prism": json.dumps({"config": small_model.config.model_dump()})}
    save_file(dict(small_model.state_dict()), tmp_path / "nan.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"Refusing to load.*transformer.gate"):
        load(tmp_path / "nan.safetensors")


def test_other_dimensions_list_what_differs(saved: Path) -> None:
    state = load(saved).model.state_dict()
    state["surplus"] = torch.zeros(1)
    del state["model.model.transformer.gate"]
    with pytest.raises(CheckpointError) as caught:
        load_state(FlowModel(ModelConfig(latent_channels=28)), state, source="old.safetensors")
    message = str(caught.value)
    assert "old.safetensors does not fit" in message
    assert "missing: model.model.transformer.gate" in message
    assert "unexpected: surplus" in message
    assert "project_in.weight is (64, 27), expected (64, 28)" in message


def test_names_of_other_modules_must_not_clash(tmp_path: Path, small_model: FlowModel) -> None:
    with pytest.raises(CheckpointError, match="clashes"):
        save(tmp_path / "x.safetensors", small_model, others={"model.x": torch.zeros(1)})


def test_metadata_must_be_json(tmp_path: Path, small_model: FlowModel) -> None:
    with pytest.raises(CheckpointError, match="not plain JSON"):
        save(tmp_path / "x.safetensors", small_model, {"when": object()})


def test_disk_full_leaves_the_old_file(saved: Path, small_model: FlowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"Could not write .*No space left.*Free space"):
        save(saved, small_model)
    assert saved.read_bytes() == before
    assert leftovers(saved.parent) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path, small_model: FlowModel) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Could not write"):
        save(tmp_path / "file" / "model.safetensors", small_model)


def test_checksum_sees_names_shapes_types_and_values() -> None:
    state = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    reference = checksum(state)
    assert checksum(dict(reversed(state.items()))) == reference
    assert checksum({"a": np.asfortranarray(state["a"]), "b": state["b"]}) == reference
    variants = [
        {"a": state["a"].reshape(3, 2), "b": state["b"]},
        {"a": state["a"].astype(np.float64), "b": state["b"]},
        {"c": state["a"], "b": state["b"]},
        {"a": np.negative(state["a"]), "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({reference, *map(checksum, variants)}) == 6
    assert checksum({"scalar": np.array(1.0, np.float32), "none": np.zeros(0, np.float32)})
