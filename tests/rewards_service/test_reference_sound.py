"""A reference clip's own sound, read once."""

from pathlib import Path

import numpy as np
import pytest

from media.errors import MediaError
from media.writing import write_clip
from rewards_service import reference_sound as room
from rewards_service.reference_sound import Remembered, reference_sound
from rewards_service.scores import Reference
from tests.rewards_service.released.stereo_sounds import RATE, moving, reference

BLACK = np.zeros((32, 16, 16, 3), np.uint8)


def about(path: Path, start: float = 0.0, seconds: float = 1.0) -> Reference:
    return Reference("clip", "", seconds, (), (), 1.0, uri=str(path), start=start)


def test_a_stretch_of_a_video(tmp_path: Path) -> None:
    sound = moving(seconds=2.0)
    write_clip(tmp_path / "clip.mp4", BLACK, 16.0, sound, RATE, audio_codec="flac")
    found = reference_sound(about(tmp_path / "clip.mp4", start=0.5), RATE)
    assert found is not None
    assert found.shape == (2, RATE)
    np.testing.assert_allclose(found, sound[:, RATE // 2 : RATE // 2 + RATE], atol=1e-3)


def test_of_a_sound_file_at_another_rate(tmp_path: Path) -> None:
    sound = moving(seconds=1.0)
    found = reference_sound(reference(tmp_path, "clip", sound, start=0.25), RATE // 2)
    assert found is not None
    assert found.shape == (2, RATE // 2)
    assert np.corrcoef(found[0], sound[0, ::2])[0, 1] > 0.9


def test_no_file_no_track_and_silence_are_no_sound(tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", BLACK, 16.0)
    write_clip(tmp_path / "quiet.mp4", BLACK, 16.0, 1e-3 * moving(seconds=2.0), RATE, audio_codec="flac")
    assert reference_sound(Reference("clip", "", 1.0, (), (), 1.0), RATE) is None
    assert reference_sound(about(tmp_path / "mute.mp4"), RATE) is None
    assert reference_sound(about(tmp_path / "quiet.mp4"), RATE) is None


def test_a_file_that_is_no_clip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a clip")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        reference_sound(about(tmp_path / "text.mp4"), RATE)


def test_findings_are_kept_by_stretch_and_failures_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def find(known: Reference) -> str:
        asked.append((known.uri, known.start))
        if known.uri == "bad":
            raise MediaError(known.uri, "is broken.")
        return known.uri.upper()

    monkeypatch.setattr(room, "REMEMBERED", 2)
    memory = Remembered(find, "?")
    a, later, bad, b = about(Path("a")), about(Path("a"), 1.0), about(Path("bad")), about(Path("b"))
    assert memory.of([a, later, a, bad], 2) == (
        ["A", "A", "A", "?"],
        {(3, n): "the reference clip cannot be read: bad: is broken." for n in range(2)},
    )
    assert asked == [("a", 0.0), ("a", 1.0), ("bad", 0.0)]
    memory.of([bad, b], 1)  # asks again for what failed, and forgets the oldest
    memory.of([later, a], 1)
    assert asked[3:] == [("bad", 0.0), ("b", 0.0), ("a", 0.0)]
