"""Rendered scenes as video files, and a small Synchformer with random weights that sees and hears them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foundation.spectrogram_transformer import SpectrogramTransformer
from foundation.synchformer import SynchformerVisual
from foundation.synchformer_head import SyncHead
from foundation.synchronisation import Synchformer
from media.writing import write_clip
from rewards_service.scores import Reference
from scenes import picture, sound
from scenes.world import FPS, SECONDS, make_scene, scene_seed

RATE = sound.SAMPLE_RATE


@dataclass(frozen=True)
class Film:
    """Scenes one after another as one video, with its (2, S) sound at RATE."""

    reference: Reference
    sound: np.ndarray


def make_film(path: Path, index: int, scenes: int = 3) -> Film:
    """A video of 2 s a scene, with every impact known."""
    found = [make_scene(scene_seed("films", index, k)) for k in range(scenes)]
    waveform = np.concatenate([sound.render(s) for s in found], axis=1)
    write_clip(path, np.concatenate([picture.render(s) for s in found]), FPS, waveform, RATE, audio_codec="flac")
    events = tuple(SECONDS * k + event for k, s in enumerate(found) for event in s.events)
    return Film(Reference(path.stem, "", SECONDS * scenes, events, (), FPS, uri=str(path)), waveform)


def small_synchformer(seed: int = 0) -> Synchformer:
    """64 wide, one layer, pictures of 64 x 64; all else as released."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Synchformer(SynchformerVisual(64, 1, 1, places=16), SpectrogramTransformer(64, 1, 1), SyncHead(64, 1))
        for parameter in model.parameters():
            if not parameter.any():
                parameter.data.normal_(0, 0.1)
        for name, parameter in model.transformer.named_parameters():
            if name.endswith(("attn.key.weight", "attn.query.weight")):
                parameter.data *= 12  # attention to single tokens, so that answers differ visibly between sounds
            if name == "off_head.weight":
                parameter.data *= 6
    return model.eval().requires_grad_(False)
