"""Released files from one format to the other, and a run's model as a released file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundation import checkpoint, prismaudio
from foundation.errors import CheckpointError
from foundation.flat import read_flat, write_flat
from pipelines.convert import convert, export
from tests.foundation.released import flat_state, vae_state


def same(path: Path, expected: dict[str, Tensor]) -> bool:
    actual = read_flat(path)
    return list(actual) == list(expected) and all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    write_flat(folder / "prismaudio.ckpt", flat_state("b", vae=False))
    write_flat(folder / "vae.ckpt", vae_state("autoencoder."), key="state_dict")
    return folder


@pytest.mark.parametrize("vae", [True, False])
def test_there_and_back(tmp_path: Path, vae: bool) -> None:
    state = flat_state("b", vae)
    write_flat(tmp_path / "prismaudio.ckpt", state)
    assert same(convert(tmp_path / "prismaudio.ckpt", tmp_path / "new.safetensors"), state)
    assert same(convert(tmp_path / "new.safetensors", tmp_path / "back.ckpt"), state)
    assert list(torch.load(tmp_path / "back.ckpt", weights_only=True)) == list(state)


def test_the_autoencoder_joins_and_leaves(tmp_path: Path, release: Path) -> None:
    merged = convert(release, tmp_path / "one.ckpt", vae=release / "vae.ckpt")
    assert same(merged, flat_state("b"))
    assert same(convert(merged, tmp_path / "two.safetensors", without_vae=True), flat_state("b", vae=False))
    other = {name: tensor * 2 for name, tensor in vae_state("").items()}
    write_flat(tmp_path / "bare.safetensors", other)
    replaced = convert(merged, tmp_path / "three.ckpt", vae=tmp_path / "bare.safetensors")
    expected = {"pretransform.model." + name: tensor for name, tensor in other.items()}
    assert same(replaced, flat_state("b", vae=False) | expected)


def test_an_autoencoder_file_keeps_lightnings_layout(tmp_path: Path, release: Path) -> None:
    convert(release / "vae.ckpt", tmp_path / "vae.safetensors")
    back = convert(tmp_path / "vae.safetensors", tmp_path / "vae.ckpt")
    assert same(back, vae_state("autoencoder."))
    assert list(torch.load(back, weights_only=True)) == ["state_dict"]
    with pytest.raises(CheckpointError, match="holds no flow model"):
        convert(back, tmp_path / "no.ckpt", without_vae=True)


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    source, target = tmp_path / "in.ckpt", tmp_path / "out.safetensors"
    write_flat(source, flat_state("b") | {"model.model.more": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): model\.model\.more"):
        convert(source, target)
    state = flat_state("b")
    del state["pretransform.model.decoder.layers.7.weight_v"]
    write_flat(source, state)
    with pytest.raises(CheckpointError, match=r"missing \(1\): decoder\.layers\.7\.weight_v"):
        convert(source, target)
    assert not target.exists()
    write_flat(target, {"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match="exists already"):
        convert(source, target)


def trained(release: Path, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A run's checkpoint as `prism train` writes it, with every DiT weight moved."""
    flow = prismaudio.load(release).flow
    with torch.no_grad():
        for parameter in flow.trainable().values():
            parameter.add_(0.01)
    checkpoint.save(folder / "model.safetensors", flow, {"release": str(release), "training": {"version": 2}})
    return folder, dict(flow.state_dict())


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_run_becomes_a_released_file(tmp_path: Path, release: Path, suffix: str) -> None:
    run, weights = trained(release, tmp_path / "run")
    target = export(run, tmp_path / f"exported{suffix}")
    expected = flat_state("b")
    assert same(target, {name: weights.get(name, tensor) for name, tensor in expected.items()})
    read = prismaudio.load(target)
    assert read.codec is not None
    assert any(not torch.equal(weights[name], expected[name]) for name in weights)


def test_a_release_that_moved(tmp_path: Path, release: Path) -> None:
    run, _ = trained(release, tmp_path / "run")
    moved = release.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="which is gone; name it with --release"):
        export(run, tmp_path / "exported.ckpt")
    export(run, tmp_path / "exported.ckpt", release=moved)
    assert list(read_flat(tmp_path / "exported.ckpt")) == list(flat_state("b"))


def test_only_runs_from_a_release_of_the_same_size_can_be_exported(tmp_path: Path, release: Path) -> None:
    flow = prismaudio.load(release).flow
    checkpoint.save(tmp_path / "model.safetensors", flow)
    with pytest.raises(CheckpointError, match="does not name a release"):
        export(tmp_path / "model.safetensors", tmp_path / "exported.ckpt")
    write_flat(tmp_path / "other" / "prismaudio.ckpt", flat_state("a"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors, to be written in the layout of .*missing"):
        export(tmp_path / "model.safetensors", tmp_path / "exported.ckpt", release=tmp_path / "other")
    assert not (tmp_path / "exported.ckpt").exists()
