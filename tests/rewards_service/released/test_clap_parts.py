"""What the audio-text scorers are made of: windows, levels, spectra, checkpoints, caches."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rewards_service.errors import RewardError
from rewards_service.released import checkpoints, hub, windows
from rewards_service.released.log_mel import LogMel

FIXTURES = Path(__file__).parent / "fixtures"


@given(st.integers(1, 5000), st.integers(1, 900))
def test_windows_cover_a_clip_with_as_few_as_possible(samples: int, window: int) -> None:
    at = windows.starts(samples, window)
    assert at[0] == 0
    assert at[-1] == max(samples - window, 0)
    assert all(0 <= after - before <= window for before, after in pairwise(at))
    assert len(at) == max(1, -(-samples // window))


def test_windows_of_twenty_seconds() -> None:
    assert windows.starts(20, 7) == [0, 6, 13]  # 6.5 rounds to the even 6
    pieces = windows.cut(torch.arange(40.0).view(2, 20), 7)
    assert pieces.shape == (2, 3, 7)
    assert pieces[1, 2].tolist() == list(range(33, 40))


def test_short_sounds_are_repeated_as_each_package_does() -> None:
    sound = torch.tensor([[1.0, 2.0, 3.0]])
    assert windows.repeated(sound, 7).tolist() == [[1, 2, 3, 1, 2, 3, 1]]
    assert windows.repeated(sound, 7, whole=True).tolist() == [[1, 2, 3, 1, 2, 3, 0]]
    assert windows.repeated(sound, 3, whole=True).tolist() == [[1, 2, 3]]


@given(st.floats(1e-3, 30.0), st.integers(0, 100))
def test_level_does_not_matter(gain: float, seed: int) -> None:
    sound = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 400)).astype(np.float32)) * 0.05
    sound[1] = 0.0
    sound[1, 7] = 0.5  # a click, whose peak limits the gain: RMS 0.5 / sqrt(400) = 0.025, of 0.1 wanted
    once, again = windows.levelled(sound), windows.levelled(sound * gain)
    torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-6)
    assert once[0].square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)
    assert once[1, 7].item() == pytest.approx(0.99, rel=1e-5)
    assert windows.levelled(torch.zeros(1, 9)).eq(0).all()


def test_pooling_averages_directions() -> None:
    found = windows.pooled(torch.tensor([[[3.0, 0.0], [0.0, 0.1]]]))
    torch.testing.assert_close(found, torch.full((1, 2), 0.5**0.5))


@pytest.mark.parametrize(
    ("spectrum", "key", "samples"),
    [
        (LogMel(), "mel.laion_htsat_logmel", 48000),
        (LogMel(scale="htk"), "mel.laion_get_mel", 48000),
        (LogMel(rate=44100, hop=320, high=8000.0), "mel.msclap_htsat_logmel", 22050),
    ],
)
def test_spectra_are_those_of_the_packages(spectrum: LogMel, key: str, samples: int) -> None:
    golden = load_file(FIXTURES / "clap.safetensors")
    wave = golden["mel.wave48k_int16"].float()[None, :samples] / 32767
    torch.testing.assert_close(spectrum(wave)[0], golden[key], atol=2e-3, rtol=0)


def test_spectra_of_repeated_sounds_are_those_of_transformers() -> None:
    golden = load_file(FIXTURES / "clap.safetensors")
    wave = windows.repeated(golden["mel.wave48k_int16"].float()[None] / 32767, 96000, whole=True)
    expected = golden["mel.hf_clap_input_features"]
    torch.testing.assert_close(LogMel()(wave)[0, : len(expected)], expected, atol=2e-3, rtol=0)


def test_checkpoints_are_read_under_their_wrappings(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(2), "module.b": torch.zeros(3, 1)}
    torch.save({"epoch": 3, "best": np.float64(0.5), "state_dict": state}, tmp_path / "a.pt")
    torch.save({"model": state}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "c.pt")
    save_file(state, tmp_path / "d.safetensors")
    for name in ("a.pt", "b.pth", "c.pt", "d.safetensors"):
        assert checkpoints.shapes(checkpoints.read(tmp_path / name, "test")) == {"a": (2,), "b": (3, 1)}


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("harm",)


def test_checkpoints_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RewardError, match="There is no tested model at ''"):
        checkpoints.read("", "tested model")
    with pytest.raises(RewardError, match=r"There is no tested model at .*absent\.pt"):
        checkpoints.read(tmp_path / "absent.pt", "tested model")
    for content, name, why in (
        ({"a": Harmful()}, "harm.pt", "more than tensors"),
        ({"a": 1}, "numbers.pt", "no dict of tensors"),
        ({"a": torch.tensor([1.0, torch.nan])}, "nan.pt", "NaN or infinity in a"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(RewardError, match=why):
            checkpoints.read(tmp_path / name, "test")
    assert "harm" not in capsys.readouterr().out
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    whole = (tmp_path / "nan.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(whole[:20])
    for name in ("old.pt", "cut.pt", "cut.safetensors"):
        with pytest.raises(RewardError, match=name):
            checkpoints.read(tmp_path / name, "test")
    assert "harm" not in capsys.readouterr().out


def test_every_wrong_tensor_is_named() -> None:
    expected = {"a": (1,), "b": (2,), "c": (3,), "mask.0": (1,)}
    checkpoints.compare(expected, {"a": (1,), "b": (2,), "c": (3,), "old.7": ()}, "file", r"mask\.\d", r"old\.\d")
    with pytest.raises(RewardError) as refused:
        checkpoints.compare(expected, {"a": (1,), "bb": (2,), "c": (4,), "mask.0": (1,), "old.7": ()}, "file.pt")
    for part in ("file.pt", "missing (1): b", "unexpected (2): bb, old.7", "c (4,), expected (3,)"):
        assert part in str(refused.value)


def test_caches_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "home" / "hub", tmp_path / "cache"):
        place = folder / "models--facebook--bart-base"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("abc\n")
        (place / "snapshots" / "abc").mkdir(parents=True)
    expected = tmp_path / "home" / "hub" / "models--facebook--bart-base" / "snapshots" / "abc"
    assert hub.snapshot(tmp_path / "home", "facebook/bart-base") == expected
    with pytest.raises(RewardError, match=r"has no gpt2 .*hf download gpt2"):
        hub.use(tmp_path / "cache", ("facebook/bart-base", "gpt2"))
    # This process has its cache already, once anything has asked for it.
    import huggingface_hub.constants as constants

    with pytest.raises(RewardError, match="already uses the Hugging Face cache"):
        hub.use(tmp_path / "cache", ("facebook/bart-base",))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "before")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.use(tmp_path / "cache", ("facebook/bart-base",))
    hub.use("", ("gpt2",))
