"""A user's own videos: split, captions, rejected files, and what is said about them."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from foundation.build import load_foundation
from pipelines.data import training_data
from pipelines.recipe import find_model
from settings import PrismError
from tests.pipelines.conftest import recipe, write_scene

QUIET = Console(file=StringIO())


def test_own_videos_are_split_by_video_and_explained(own_videos: Path, tmp_path: Path) -> None:
    data = training_data(recipe(tmp_path, f"data={own_videos}"), load_foundation(find_model(None)), QUIET)
    assert len(data.prompts) == 4
    assert len(data.heldout) == 2
    assert {s.path for s in data.prompts}.isdisjoint({s.path for s in data.heldout})
    assert [Path(r.path).name for r in data.rejected] == ["broken.mp4"]
    notes = " ".join(data.notes)
    assert "6 of 6 clips have no known impact times" in notes
    assert "2 of 6 clips have no caption" in notes
    assert "dragon" in notes


def test_scenes_know_their_truth_and_need_no_notes(tmp_path: Path) -> None:
    data = training_data(recipe(tmp_path), load_foundation(find_model(None)), QUIET)
    assert (len(data.prompts), len(data.heldout)) == (6, 4)
    assert data.notes == []
    assert all(s.reference.origin["events"] == "truth" for s in data.prompts)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_videos(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for index in range(count):
        write_scene(folder / f"{index}.mp4", index)
    with pytest.raises(PrismError, match="few"):
        training_data(recipe(tmp_path, f"data={folder}"), load_foundation(find_model(None)), QUIET)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="nowhere"):
        training_data(recipe(tmp_path, f"data={tmp_path}/nowhere"), load_foundation(find_model(None)), QUIET)
