from pathlib import Path

import pytest

from cluster.submit import SubmitError, entrypoint, submit


def test_the_entrypoint_names_its_interpreter_and_keeps_odd_words_whole() -> None:
    command = entrypoint(["train", "recipes/laptop.yaml", "name=my run"], "/venv/bin/python")
    assert command == "/venv/bin/python prism.py train recipes/laptop.yaml 'name=my run'"
    with pytest.raises(SubmitError, match="absolute path on the cluster, got 'python'"):
        entrypoint(["train"], "python")


def test_a_run_folder_inside_rays_cache_is_refused() -> None:
    with pytest.raises(SubmitError, match="runs_dir must be absolute, got 'runs'"):
        submit("http://127.0.0.1:1", ["train"], "/venv/bin/python", Path("runs"))


def test_nobody_at_the_address_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match=r"No Ray dashboard lets us in at http://127\.0\.0\.1:1 "):
        submit("http://127.0.0.1:1", ["train"], "/venv/bin/python", tmp_path)
    with pytest.raises(SubmitError, match=r"No such file.*none"):
        submit("http://127.0.0.1:1", ["train"], "/venv/bin/python", tmp_path, token_path=tmp_path / "none")
