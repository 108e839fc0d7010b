"""The encoders of a forged release on small videos."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.errors import CheckpointError
from foundation.release import Release
from foundation.released_encoders import ENCODERS, ReleasedEncoders
from foundation.synchformer import SynchformerVisual
from foundation.videoprism import VideoPrism
from media.errors import MissingFile, OutOfRange
from media.frames import read_frames
from media.squares import cropped_square, padded_square
from media.video import write_clip


@pytest.fixture(scope="module")
def encoders(release: Path) -> ReleasedEncoders:
    return ReleasedEncoders(Release.find(release), segments=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s of a moving bar, 30 frames per second, 64 x 48."""
    frames = np.zeros((45, 48, 64, 3), np.uint8)
    for i in range(45):
        frames[i, :, i : i + 8] = (255, 40 + 4 * i, 90)
    path = tmp_path_factory.mktemp("videos") / "bar.mp4"
    write_clip(path, frames, 30)
    return path


def test_features_have_the_released_rates(encoders: ReleasedEncoders, video: Path):
    assert encoders.video(video, 0, 1.5).shape == (6, 64)
    # 37 frames at 25 Hz hold three segments, which start at 0, 8 and 16.
    assert encoders.sync(video, 0, 1.5).shape == (3 * 8, 128)
    assert [f.shape[1] for f in encoders.text(["a dog", "a dog barks twice"])] == [64, 64]
    assert all(f.dtype == np.float32 for f in (encoders.video(video, 0, 1), *encoders.text(["a dog"])))


def test_features_are_the_encoders_on_the_prepared_frames(encoders: ReleasedEncoders, video: Path, release: Path):
    found = Release.find(release)
    assert found.videoprism is not None
    assert found.synchformer is not None
    frames = np.stack([padded_square(f) for f in read_frames(video, 4, 0.5, 1.0)])
    expected = VideoPrism.load(found.videoprism).features(frames)
    np.testing.assert_allclose(encoders.video(video, 0.5, 1.0), expected.frames, atol=1e-6)
    np.testing.assert_allclose(encoders.global_video(video, 0.5, 1.0), expected.clip, atol=1e-6)
    frames = np.stack([cropped_square(f) for f in read_frames(video, 25, 0.5, 1.0)])
    synchformer = SynchformerVisual.load(found.synchformer)
    np.testing.assert_allclose(encoders.sync(video, 0.5, 1.0), synchformer.features(frames), atol=1e-5)


def test_stretches_shorter_than_anything_still_have_features(encoders: ReleasedEncoders, video: Path):
    assert encoders.video(video, 0, 0.1).shape == (1, 64)
    assert encoders.sync(video, 0, 0.1).shape == (8, 128)


def test_features_reach_as_far_as_asked(encoders: ReleasedEncoders, video: Path):
    assert encoders.video(video, 1.0, 2.0).shape == (8, 64)
    with pytest.raises(OutOfRange):
        encoders.video(video, 5.0, 1.0)
    with pytest.raises(MissingFile):
        encoders.sync(video.with_name("none.mp4"), 0, 1)


def copied(release: Path, to: Path) -> Path:
    """The same files by hard links, so that single ones can be replaced."""
    for file in (f for f in release.rglob("*") if f.is_file()):
        target = to / file.relative_to(release)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(file)
    return to


def test_identities_follow_the_files_not_their_paths(encoders: ReleasedEncoders, release: Path, tmp_path: Path):
    identities = {name: encoders.identity(name) for name in ENCODERS}
    assert all(identity.startswith(f"{name}-") for name, identity in identities.items())
    folder = copied(release, tmp_path / "other")
    other = ReleasedEncoders(Release.find(folder))
    assert {name: other.identity(name) for name in ENCODERS} == identities
    path = folder / "synchformer_state_dict.pth"
    tensors = torch.load(path, weights_only=True)
    path.unlink()
    torch.save({name: 2 * tensor for name, tensor in tensors.items()}, path)
    assert other.identity("synchformer") != identities["synchformer"]
    assert other.identity("videoprism") == identities["videoprism"]


def test_what_changes_features_changes_the_identity(encoders: ReleasedEncoders, release: Path):
    found = Release.find(release)
    capped, half = ReleasedEncoders(found, max_tokens=8), ReleasedEncoders(found, dtype=torch.bfloat16)
    assert capped.identity("t5gemma") != encoders.identity("t5gemma")
    assert capped.identity("videoprism") == encoders.identity("videoprism")
    assert half.identity("videoprism") != encoders.identity("videoprism")
    with pytest.raises(ValueError, match="no encoder 'vae'"):
        encoders.identity("vae")


def test_half_precision_is_close(encoders: ReleasedEncoders, video: Path, release: Path):
    half = ReleasedEncoders(Release.find(release), dtype=torch.bfloat16)
    for name, args in {"video": (video, 0, 0.5), "sync": (video, 0, 0.5)}.items():
        whole, rough = getattr(encoders, name)(*args), getattr(half, name)(*args)
        assert rough.dtype == np.float32
        assert 0 < np.abs(whole - rough).max() < 0.05 * np.abs(whole).max()


def test_encoders_come_and_go(release: Path, video: Path):
    encoders = ReleasedEncoders(Release.find(release))
    before = encoders.text(["a dog"])[0]
    loaded = encoders._t5gemma
    encoders.release_memory()
    np.testing.assert_array_equal(encoders.text(["a dog"])[0], before)
    assert encoders._t5gemma is not loaded


def test_missing_encoders_are_named(release: Path, tmp_path: Path, video: Path):
    folder = copied(release, tmp_path / "part")
    (folder / "synchformer_state_dict.pth").unlink()
    encoders = ReleasedEncoders(Release.find(folder))
    for call in (lambda: encoders.sync(video, 0, 1), lambda: encoders.identity("synchformer")):
        with pytest.raises(CheckpointError, match="lacks synchformer"):
            call()
    assert encoders.text(["a dog"])
