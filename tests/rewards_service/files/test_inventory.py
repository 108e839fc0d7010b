"""What `prism weights check` says of forged files: whole, damaged, of another variant, dangerous, missing, unknown."""

import dataclasses
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from rewards_service.errors import RewardError
from rewards_service.files import inventory
from rewards_service.files.inventory import Entry, inspect
from rewards_service.files.known_files import KNOWN
from rewards_service.released import audiobox_files
from tests.rewards_service.released.forge_audiobox import CONFIG, TARGETS


def laion(width: int = 128, fused: bool = False) -> dict[str, Any]:
    """The names by which a LAION-CLAP checkpoint is known, and how it is wrapped."""
    tensors = {
        "module.audio_branch.patch_embed.proj.weight": torch.zeros(width, 1, 4, 4),
        "module.text_branch.embeddings.word_embeddings.weight": torch.zeros(3, 2),
        "module.audio_projection.0.weight": torch.zeros(512, 2),
        "module.audio_projection.2.weight": torch.zeros(512, 2),
        "module.text_projection.0.weight": torch.zeros(512, 2),
        "module.logit_scale_a": torch.zeros(()),
    }
    if fused:
        tensors["module.audio_branch.patch_embed.fusion_model.local_att.0.weight"] = torch.zeros(1)
    return {"epoch": 15, "name": "x", "state_dict": tensors}


def ms_clap() -> dict[str, Any]:
    names = (
        "audio_encoder.base.htsat.patch_embed.proj.weight",
        "audio_encoder.projection.linear1.weight",
        "caption_encoder.base.wte.weight",
        "caption_encoder.projection.linear1.weight",
        "logit_scale",
    )
    return {"model": {name: torch.zeros(2) for name in names}}


def synchformer() -> dict[str, Tensor]:
    tensors = {f"{name}_extractor.blocks.0.weight": torch.zeros(4) for name in ("vfeat", "afeat")}
    tensors |= {f"{name}.weight": torch.zeros(3) for name in ("vproj", "aproj")}
    tensors |= {f"transformer.{name}": torch.zeros(1, 2) for name in ("OFF_tok", "MOD_tok", "pos_emb_cfg.pos_emb")}
    return tensors | {"transformer.off_head.weight": torch.zeros(21, 2)}


def crw() -> dict[str, Any]:
    shapes = {"conv1.weight": (64, 2, 7, 7), "layer1.0.conv1.weight": (1,), "layer4.0.conv1.weight": (1,)}
    tensors = {f"module.net.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    return {"epoch": 3, "state_dict": tensors | {"module.net.fc.weight": torch.zeros(128, 512)}}


def audiobox() -> dict[str, Any]:
    state = {f"model.{name}": torch.zeros(1) for name in audiobox_files.names()}
    return {"state_dict": state, "model_cfg": CONFIG, "target_transform": TARGETS}


def entry(folder: Path, name: str) -> Entry:
    """The one entry of a known file."""
    (found,) = [e for e in inspect(folder).entries if e.name == name]
    return found


WHOLE: dict[str, tuple[Any, int]] = {
    "CLAP_weights_2023.pth": (ms_clap(), 10),
    "music_speech_audioset_epoch_15_esc_89.98.pt": (laion(), 128 * 16 + 6 + 3 * 1024 + 1),
    "630k-audioset-best.pt": (laion(96), 96 * 16 + 6 + 3 * 1024 + 1),
    "630k-fusion-best.pt": (laion(96, fused=True), 96 * 16 + 6 + 3 * 1024 + 2),
    "synchformer_state_dict.pth": (synchformer(), 8 + 6 + 6 + 42),
    "24-01-04T16-39-21.pt": ({"model": synchformer(), "epoch": 1}, 62),
    "checkpoint.pt": (audiobox(), 260),
    "FreeMusic-StereoCRW-1024.pth.tar": (crw(), 64 * 98 + 2 + 128 * 512),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_recognised_and_counted(tmp_path: Path, name: str) -> None:
    content, parameters = WHOLE[name]
    path = tmp_path / "rewards" / name
    path.parent.mkdir()
    torch.save(content, path)
    found = entry(tmp_path, name)
    assert (found.state, found.reason) == ("whole", "")
    assert found.parameters == parameters
    assert found.path == f"rewards/{name}"
    assert found.bytes == path.stat().st_size
    assert found.sha256 == {name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert inspect(tmp_path).others == ()


def test_numbers_of_numpy_beside_the_tensors_do_not_matter(tmp_path: Path) -> None:
    import numpy as np

    torch.save({**laion(), "best": np.float64(0.9)}, tmp_path / "music_speech_audioset_epoch_15_esc_89.98.pt")
    assert entry(tmp_path, "music_speech_audioset_epoch_15_esc_89.98.pt").state == "whole"


def test_a_release_and_folders_of_models(tmp_path: Path, release: Path) -> None:
    found = {e.name: e for e in inspect(release).entries if e.state != "missing"}
    expected = ["synchformer_state_dict.pth", "prismaudio.ckpt", "vae.ckpt"]
    expected += ["google/videoprism-lvt-large-f8r288", "google/t5gemma-l-l-ul2-it"]
    assert sorted(found) == sorted(expected)
    assert {e.state for e in found.values()} == {"whole"}
    assert all(e.parameters > 1000 and e.bytes > 4000 for e in found.values())

    (tmp_path / "anything").mkdir()
    save_file({"x": torch.zeros(3, 4)}, tmp_path / "anything" / "model.safetensors")
    (tmp_path / "anything" / "config.json").write_text('{"model_type": "clap"}')
    clap = entry(tmp_path, "a ClapModel folder")
    assert (clap.state, clap.path, clap.parameters) == ("whole", "anything", 12)

    bare = {name: torch.zeros(2) for name in audiobox_files.names()}
    (tmp_path / "aes").mkdir()
    save_file(bare, tmp_path / "aes" / "model.safetensors")
    (tmp_path / "aes" / "config.json").write_text(json.dumps({"target_transform": TARGETS}))
    assert entry(tmp_path, "audiobox-aesthetics/").parameters == 520
    (tmp_path / "aes" / "config.json").write_text(json.dumps({"target_transform": {}}))
    assert "lacks a mean and std for CE" in entry(tmp_path, "audiobox-aesthetics/").reason


def visual_only() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in synchformer().items() if name.startswith("vfeat")}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("630k-audioset-best.pt", laion(128), "has 128 rows, expected 96"),
        ("630k-audioset-best.pt", laion(96, fused=True), "belongs to another variant"),
        ("630k-fusion-best.pt", laion(96), "no tensor module.audio_branch.patch_embed.fusion_model.* among"),
        ("CLAP_weights_2023.pth", ms_clap()["model"], "no tensors under 'model'; found the top (5 tensors)"),
        ("CLAP_weights_2022.pth", ms_clap(), "no tensor audio_encoder.base.conv_block1.*"),
        ("synchformer_state_dict.pth", visual_only(), "no tensor afeat_extractor.* among 1"),
        ("checkpoint.pt", {"state_dict": {"a": torch.zeros(1)}, **{"model_cfg": CONFIG}}, "missing layer_weights.CE"),
        ("FreeMusic-StereoCRW-1024.pth.tar", laion(), "no tensor module.net.conv1.weight"),
        ("vae.ckpt", {"steps": 3}, "no tensors under 'state_dict' or at the top; found steps"),
        ("prismaudio.ckpt", [torch.zeros(1)], "holds a list; expected a dict"),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, name: str, content: Any, reason: str) -> None:
    torch.save(content, tmp_path / name)
    found = entry(tmp_path, name)
    assert found.state == "wrong"
    assert reason in found.reason
    assert len(found.sha256[name]) == 64


class Dangerous:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {**laion(), "note": Dangerous(tmp_path / "ran")}
    path = tmp_path / "630k-best.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = entry(tmp_path, path.name)
    assert found.state == "wrong"
    assert "asks for posix.system" in found.reason
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the file was dangerous indeed"


def test_damaged_files_are_named(tmp_path: Path) -> None:
    names = ["630k-best.pt", "CLAP_weights_2023.pth", "checkpoint.pt", "vae.safetensors", "prismaudio.ckpt"]
    torch.save(laion(96), tmp_path / names[0])
    whole = (tmp_path / names[0]).read_bytes()
    (tmp_path / names[0]).write_bytes(whole[: len(whole) // 2])
    (tmp_path / names[1]).write_bytes(b"")
    (tmp_path / names[2]).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    save_file({"encoder.x": torch.zeros(64)}, tmp_path / names[3])
    (tmp_path / names[3]).write_bytes((tmp_path / names[3]).read_bytes()[:-10])
    (tmp_path / names[4]).write_bytes(pickle.dumps({"a": 1}))
    found = {e.path: e for e in inspect(tmp_path).entries if e.state != "missing"}
    assert {e.state for e in found.values()} == {"wrong"}
    expected = ["damaged", "damaged", "Git LFS pointer", "not a whole safetensors file", "no model file of torch"]
    for name, reason in zip(names, expected, strict=True):
        assert reason in found[name].reason


def test_model_folders_that_lack_something(tmp_path: Path) -> None:
    folder = tmp_path / "t5gemma-l-l-ul2-it"
    folder.mkdir()
    name = "google/t5gemma-l-l-ul2-it"
    assert "has no config.json" in entry(tmp_path, name).reason
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert "is of type 't5', expected 't5gemma'" in entry(tmp_path, name).reason
    (folder / "config.json").write_text('{"model_type": "t5gemma"}')
    assert "no model.safetensors" in entry(tmp_path, name).reason
    save_file({"a": torch.zeros(5)}, folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks model-00002-of-00002.safetensors" in entry(tmp_path, name).reason
    save_file({"b": torch.zeros(6)}, folder / "model-00002-of-00002.safetensors")
    found = entry(tmp_path, name)
    assert (found.state, found.parameters, len(found.sha256)) == ("whole", 11, 2)
    (tmp_path / "hub").mkdir()
    (tmp_path / "roberta-base").mkdir()
    assert entry(tmp_path, "hub/").state == entry(tmp_path, "roberta-base/").state == "wrong"
    snapshot = tmp_path / "hub" / "models--gpt2" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "models--gpt2" / "refs").mkdir()
    (tmp_path / "hub" / "models--gpt2" / "refs" / "main").write_text("0")
    (tmp_path / "roberta-base" / "tokenizer.json").write_text("{}")
    assert entry(tmp_path, "hub/").state == entry(tmp_path, "roberta-base/").state == "whole"


def test_everything_missing_has_a_source_a_licence_and_a_use(tmp_path: Path) -> None:
    found = inspect(tmp_path)
    assert [e.name for e in found.entries] == [known.name for known in KNOWN]
    assert len({e.name for e in found.entries}) == len(KNOWN)
    assert all(e.state == "missing" and e.licence and e.source and e.used_by for e in found.entries)
    with pytest.raises(RewardError, match="There is no folder"):
        inspect(tmp_path / "absent")


def test_others_are_told_and_hidden_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/notes.txt", "clapcap_weights_2023.pth", ".gitattributes"):
        (tmp_path / name).write_text("x")
    assert inspect(tmp_path).others == ("a/b/notes.txt", "clapcap_weights_2023.pth")


def test_a_known_checksum_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "synchformer_state_dict.pth"
    torch.save(synchformer(), path)
    assert entry(tmp_path, path.name).published == "differs"
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    known = next(k for k in KNOWN if k.name == path.name)
    monkeypatch.setattr(inventory, "KNOWN", (dataclasses.replace(known, md5=digest[:7]),))
    assert entry(tmp_path, path.name).published == "equals"
    assert inspect(tmp_path, checksums=False).entries[0].sha256 == {}
    path.unlink()
    save_file(synchformer(), tmp_path / "synchformer_state_dict.safetensors")
    found = inspect(tmp_path).entries[0]
    assert (found.state, found.published) == ("whole", ""), "another format has another checksum"


def test_the_table_and_the_json_tell_it_all(tmp_path: Path) -> None:
    torch.save(ms_clap(), tmp_path / "CLAP_weights_2023.pth")
    torch.save(laion(96), tmp_path / "music_speech_audioset_epoch_15_esc_89.98.pt")
    (tmp_path / "other.bin").write_text("x")
    found = inspect(tmp_path)
    console = Console(width=220, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(inventory.table(found))
    shown = " ".join(console.export_text().split())
    for told in ("CLAP_weights_2023.pth", "has 96 rows, expected 128", "CC BY 4.0", "facebook/audiobox-aesthetics"):
        assert told in shown
    assert "1 of no known model: other.bin" in shown
    told = json.loads(json.dumps(inventory.as_dict(found)))
    assert told["files"][0]["state"] == "whole"
    assert told["others"] == ["other.bin"]


@given(content=st.binary(max_size=300), magic=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00."]))
def test_any_bytes_are_wrong_and_never_an_exception(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, magic: bytes
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("CLAP_weights_2023.pth", "vae.safetensors", "checkpoint.pt"):
        (folder / name).write_bytes(magic + content)
    assert {e.state for e in inspect(folder).entries if e.state != "missing"} == {"wrong"}


def test_weights_beside_a_cache_are_found(tmp_path: Path) -> None:
    """A folder per scorer, as one might keep them: its hub does not hide what lies beside it."""
    (tmp_path / "mine" / "hub" / "models--gpt2").mkdir(parents=True)
    (tmp_path / "mine" / "CLAP_weights_2023.pth").write_bytes(b"nothing")
    (name,) = [known.name for known in KNOWN if known.name == "CLAP_weights_2023.pth"]
    assert entry(tmp_path, name).path == "mine/CLAP_weights_2023.pth"
