"""Which files make a release."""

from pathlib import Path

import pytest

from foundation.errors import CheckpointError
from foundation.release import Release, is_release


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_whole_release(tmp_path: Path) -> None:
    touch(tmp_path, "prismaudio.ckpt", "vae.ckpt", "synchformer_state_dict.pth",
          "videoprism-lvt-large/config.json", "t5gemma-l-l-ul2-it/config.json")  # fmt: skip
    found = Release.find(tmp_path)
    assert found == Release.find(tmp_path / "prismaudio.ckpt")
    assert found == Release(
        tmp_path,
        tmp_path / "prismaudio.ckpt",
        tmp_path / "vae.ckpt",
        tmp_path / "synchformer_state_dict.pth",
        tmp_path / "videoprism-lvt-large",
        tmp_path / "t5gemma-l-l-ul2-it",
    )
    found.require("vae", "synchformer", "videoprism", "t5gemma")
    assert is_release(tmp_path)
    assert is_release(str(tmp_path / "prismaudio.ckpt"))


def test_converted_files_and_a_folder_without_a_description(tmp_path: Path) -> None:
    touch(tmp_path, "prismaudio.safetensors", "vae.safetensors", "videoprism/notes.txt", "videoprism_lvt/config.json")
    found = Release.find(tmp_path)
    assert found.model.name == "prismaudio.safetensors"
    assert found.vae == tmp_path / "vae.safetensors"
    assert found.videoprism == tmp_path / "videoprism_lvt"


def test_every_missing_part_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "prismaudio.ckpt")
    with pytest.raises(CheckpointError) as caught:
        Release.find(tmp_path).require("vae", "synchformer", "t5gemma")
    for text in ("vae.ckpt", "synchformer_state_dict.pth", "t5gemma*/", str(tmp_path)):
        assert text in str(caught.value)
    assert "videoprism" not in str(caught.value)


def test_what_is_no_release(tmp_path: Path) -> None:
    assert not is_release(tmp_path)
    assert not is_release(tmp_path / "prismaudio.ckpt")
    touch(tmp_path, "vae.ckpt", "readme.txt")
    with pytest.raises(CheckpointError, match=r"expected prismaudio\.ckpt .* found readme\.txt, vae\.ckpt"):
        Release.find(tmp_path)
    with pytest.raises(CheckpointError, match="There is no release"):
        Release.find(tmp_path / "gone" / "prismaudio.ckpt")
    with pytest.raises(CheckpointError, match="is no model file"):
        Release.find(tmp_path / "readme.txt")
