"""A world of two scenes, shared by all benchmark tests."""

from pathlib import Path

import pytest

from benchmarks.world import World, laptop, world

SMALL = (
    "scenes.prompts=2",
    "scenes.heldout=2",
    "evaluation.steps=2",
    "algorithm.prompts=2",
    "algorithm.group_size=2",
    "algorithm.steps=4",
    "algorithm.window_hi=1",
    "algorithm.tail_steps=2",
    "algorithm.epochs=1",
    "rollout.prompts_per_task=2",
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world is kept, and where results may go."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="session")
def overrides(folder: Path) -> list[str]:
    return [*SMALL, f"runs_dir={folder}/runs"]


@pytest.fixture(scope="session")
def place(folder: Path, overrides: list[str]) -> World:
    return world(laptop(overrides), folder)
