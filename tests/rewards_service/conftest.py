"""Small procedural worlds with their references and sounds."""

from dataclasses import dataclass

import numpy as np
import pytest

from rewards_service.contrastive import ContrastiveEncoder, fit
from rewards_service.scores import Reference
from scenes.sound import render
from scenes.world import FPS, SECONDS, Scene, make_scene, scene_seed

RATE = 16000


@dataclass(frozen=True)
class World:
    """Scenes, what is known about them and their clean sound (G, 1, 2, S)."""

    scenes: list[Scene]
    references: list[Reference]
    sounds: np.ndarray

    @property
    def labels(self) -> list[str]:
        """Class of every scene."""
        return [scene.material.label for scene in self.scenes]


def make_world(split: str, count: int) -> World:
    """`count` scenes that no other split holds."""
    scenes = [make_scene(scene_seed(split, 0, i)) for i in range(count)]
    times = np.arange(round(SECONDS * FPS)) / FPS
    references = [
        Reference(str(s.seed), s.caption, SECONDS, s.events, tuple(map(float, s.position(times))), FPS) for s in scenes
    ]
    return World(scenes, references, np.stack([render(s) for s in scenes])[:, None])


@pytest.fixture(scope="session")
def world() -> World:
    """Twenty-four scenes to score."""
    return make_world("reward-tests", 24)


@pytest.fixture(scope="session")
def school() -> World:
    """Scenes to train the audio models on."""
    return make_world("reward-school", 200)


@pytest.fixture(scope="session")
def encoder(school: World) -> ContrastiveEncoder:
    """A briefly trained contrastive encoder."""
    texts = [scene.caption for scene in school.scenes]
    return fit(school.sounds[:, 0], texts, sample_rate=RATE, seed=0, labels=school.labels, steps=90)
