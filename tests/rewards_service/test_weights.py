"""Reading and writing of the small weight files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rewards_service.contrastive import KIND as CONTRASTIVE
from rewards_service.contrastive import ContrastiveEncoder
from rewards_service.errors import RewardError
from rewards_service.judge import KIND as JUDGE
from rewards_service.judge import Judge
from rewards_service.weights import read_weights, write_weights


def test_round_trip(tmp_path: Path) -> None:
    write_weights(tmp_path / "a" / "w.safetensors", {"x": torch.arange(6.0).view(2, 3).T}, {"kind": "test", "n": 1})
    tensors, about = read_weights(tmp_path / "a" / "w.safetensors", "test")
    torch.testing.assert_close(tensors["x"], torch.arange(6.0).view(2, 3).T)
    assert about == {"kind": "test", "n": 1}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["w.safetensors"]


def test_absent_damaged_foreign_and_poisoned_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(RewardError, match="No test weights at"):
        read_weights(path, "test")
    write_weights(path, {"x": torch.ones(100)}, {"kind": "test"})
    with pytest.raises(RewardError, match="holds 'test' weights; expected 'other'"):
        read_weights(path, "other")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RewardError, match="not a readable safetensors file"):
        read_weights(path, "test")
    write_weights(path, {"x": torch.tensor([1.0, float("nan")])}, {"kind": "test"})
    with pytest.raises(RewardError, match="NaN or Inf in x"):
        read_weights(path, "test")


@pytest.mark.parametrize(("kind", "load"), [(CONTRASTIVE, ContrastiveEncoder.load), (JUDGE, Judge.load)])
def test_weights_of_another_version_are_refused(tmp_path: Path, kind: str, load: Callable[[Path], object]) -> None:
    write_weights(tmp_path / "w.safetensors", {"x": torch.ones(2)}, {"kind": kind, "labels": ["a", "b"]})
    with pytest.raises(RewardError, match="does not fit this version"):
        load(tmp_path / "w.safetensors")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, {"x": torch.ones(2)}, {"kind": "test"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RewardError, match="No space left"):
        write_weights(path, {"x": torch.zeros(2)}, {"kind": "test"})
    assert read_weights(path, "test")[0]["x"].tolist() == [1, 1]
    assert len(list(tmp_path.iterdir())) == 1
