"""The temporal reward of the released size on a short film: nothing kept, and the clip's visual tokens kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.torch import save_file

from benchmarks.reward_load import RATE, Batch
from media.writing import write_clip
from pipelines.forge import synchformer
from rewards_service.released.synchformer import SynchformerScorer
from rewards_service.scores import Reference
from scenes import picture, sound
from scenes.world import FPS, SECONDS, make_scene, scene_seed

WIDTH, DEPTH = 768, 12
"""Of the released towers; the weights are random, which costs the same."""


@dataclass(frozen=True)
class Case:
    """Two scorers of the same weights, and one sound of one clip."""

    without: SynchformerScorer
    having: SynchformerScorer
    batch: Batch
    rate: int = RATE


@contextmanager
def film(scenes: int = 2, width: int = WIDTH, depth: int = DEPTH) -> Iterator[Case]:
    """A video of 2 s a scene, in a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        weights, video = Path(folder) / "synchformer.safetensors", Path(folder) / "film.mp4"
        save_file(synchformer(width, depth).state_dict(), weights)
        found = [make_scene(scene_seed("films", 0, k)) for k in range(scenes)]
        heard = np.concatenate([sound.render(s) for s in found], axis=1)
        write_clip(video, np.concatenate([picture.render(s) for s in found]), FPS, heard, RATE, audio_codec="flac")
        events = tuple(SECONDS * k + event for k, s in enumerate(found) for event in s.events)
        reference = Reference("film", "", SECONDS * scenes, events, (), FPS, uri=str(video))
        yield Case(
            SynchformerScorer(weights, cache_mb=0),
            SynchformerScorer(weights),
            Batch(heard[None, None].astype(np.float32), [reference]),
        )
