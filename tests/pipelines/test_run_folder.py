"""Run folders are never overwritten, and the newest is always runs/latest."""

from pathlib import Path

import pytest

from pipelines import run_folder
from pipelines.recipe import TrainRecipe
from settings import PrismError
from settings.load import load
from tests.pipelines.conftest import recipe


def test_a_named_run_gets_its_folder_config_and_link(tmp_path: Path) -> None:
    made = run_folder.create(recipe(tmp_path, "name=first", "seed=7"))
    assert made.path == tmp_path / "first"
    assert (tmp_path / "latest").resolve() == made.path
    again = load(TrainRecipe, made.config)
    assert again == recipe(tmp_path, "name=first", "seed=7")
    run_folder.create(recipe(tmp_path, "name=second"))
    assert (tmp_path / "latest").resolve().name == "second"


def test_an_existing_name_is_refused_with_the_remedy(tmp_path: Path) -> None:
    run_folder.create(recipe(tmp_path, "name=first"))
    with pytest.raises(PrismError, match=r"exists already.*--resume"):
        run_folder.create(recipe(tmp_path, "name=first"))


def test_runs_without_a_name_never_meet(tmp_path: Path) -> None:
    names = {run_folder.create(recipe(tmp_path)).name for _ in range(3)}
    assert len(names) == 3


@pytest.mark.parametrize("name", ["latest", "../out", "a b", ""])
def test_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    wanted = recipe(tmp_path).model_copy(update={"name": name})
    with pytest.raises(PrismError, match="no name for a run"):
        run_folder.create(wanted)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrismError, match="Choose another runs_dir"):
        run_folder.create(recipe(tmp_path / "file" / "runs", "name=x"))


def test_resuming_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="no run to resume"):
        run_folder.existing(recipe(tmp_path, "name=ghost"))
    with pytest.raises(PrismError, match="no run to resume"):
        run_folder.existing(recipe(tmp_path))
    made = run_folder.create(recipe(tmp_path, "name=real"))
    assert run_folder.existing(recipe(tmp_path)).path == made.path
