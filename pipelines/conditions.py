"""What a model is conditioned on, out of segments: computed, or read where it was computed before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.messages import Prompt
from cot_service.plan import DEFAULT_TEMPLATE, DIMENSIONS, Plan
from foundation.build import Foundation
from foundation.conditions import Conditions
from foundation.embedded import EmbeddedEncoder, picture
from media.clip import Clip
from media.features import SYNC, TEXT, VIDEO, FeatureStore, stretch_id, text_id
from media.manifest import sha256_of
from pipelines.recipe import TrainRecipe
from pipelines.run_folder import cache
from pipelines.segments import Segment
from scenes.schematic import describe, draw
from scenes.world import FPS
from settings import PrismError

if TYPE_CHECKING:
    from foundation.released_encoders import ReleasedEncoders


@dataclass(frozen=True)
class Conditioning:
    """How segments become conditions.

    template: makes one prompt of the four texts, for models that read one. store: where a released model's features
    are kept, so that each stretch of video and each text is encoded once; without it they are computed every time.
    """

    foundation: Foundation
    template: str = DEFAULT_TEMPLATE
    store: FeatureStore | None = None

    def __call__(self, found: Sequence[Segment]) -> Conditions:
        """Condition tensors of segments of one length.

        Raises PrismError when a video cannot be read again, or when the segments' texts have different numbers of
        tokens: `groups` keeps those apart.
        """
        encoder = self.foundation.encoder
        if isinstance(encoder, EmbeddedEncoder):
            plans = [replace(s.plan, semantic=describe(s.plan.semantic) or s.plan.semantic) for s in found]
            return encoder(pictures(found, encoder.fps), [sections(plan) for plan in plans])
        encoded = [self._released(encoder, segment) for segment in found]
        lengths = {len(text) for _, text, _ in encoded}
        if len(lengths) > 1:
            raise PrismError(
                f"Texts of {sorted(lengths)} tokens cannot share a batch; encode such segments one by one."
            )
        return Conditions(*(torch.from_numpy(np.stack(part)) for part in zip(*encoded, strict=True)))

    def groups(
        self, found: Sequence[Segment], on_progress: Callable[[int], None] = lambda done: None
    ) -> list[tuple[list[int], Conditions]]:
        """Places of the segments that can share a batch, with their conditions; every place is in one group."""
        alone = not isinstance(self.foundation.encoder, EmbeddedEncoder)
        shapes: dict[tuple[int, ...], list[int]] = {}
        encoded: dict[int, Conditions] = {}
        for place, segment in enumerate(found):
            shape: tuple[int, ...] = (self.foundation.frames(segment.reference.seconds),)
            if alone:
                one = encoded[place] = self([segment])
                shape += tuple(part.shape[1] for part in (one.video, one.text, one.sync))
            shapes.setdefault(shape, []).append(place)
            on_progress(place + 1)
        return [
            (places, Conditions.cat([encoded[k] for k in places]) if alone else self([found[k] for k in places]))
            for places in shapes.values()
        ]

    def prompts(self, found: Sequence[Segment], on_progress: Callable[[int], None] = lambda done: None) -> list[Prompt]:
        """Prompts of segments, whose lengths may differ."""
        out = []
        for done, segment in enumerate(found, start=1):
            encoded = self([segment])
            arrays = {name: getattr(encoded, name)[0].cpu().numpy() for name in ("video", "text", "sync")}
            out.append(Prompt(segment.id, arrays, segment.reference))
            on_progress(done)
        return out

    def release_memory(self) -> None:
        """Forget encoders that were loaded from a release; they are loaded again when needed."""
        if not isinstance(self.foundation.encoder, EmbeddedEncoder):
            self.foundation.encoder.release_memory()

    def _released(self, encoder: ReleasedEncoders, segment: Segment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seconds, text = segment.reference.seconds, segment.plan.join(self.template)
        path, start = segment.path, segment.start
        # A name for what is kept; without a store, reading the whole video for it would be in vain.
        stretch = stretch_id(sha256_of(path), start, seconds) if self.store is not None else ""
        return (
            self._kept(encoder, "videoprism", VIDEO, stretch, lambda: encoder.video(path, start, seconds)),
            self._kept(encoder, "t5gemma", TEXT, text_id(text), lambda: encoder.text([text])[0]),
            self._kept(encoder, "synchformer", SYNC, stretch, lambda: encoder.sync(path, start, seconds)),
        )

    def _kept(
        self, encoder: ReleasedEncoders, kind: str, name: str, key: str, compute: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """A feature out of the store, or computed and then put there."""
        if self.store is None:
            return compute()
        identity = encoder.identity(kind)
        if self.store.missing(identity, [key], [name]):
            self.store.write(identity, {key: {name: compute()}})
        return self.store.read(identity, [key], [name])[key][name]


def feature_store(recipe: TrainRecipe) -> FeatureStore:
    """Where a released model's encoded clips are kept: the recipe's, or one that all runs of a folder share."""
    return FeatureStore(recipe.features or cache(recipe) / "features")


def features(foundation: Foundation, found: Sequence[Segment], template: str = DEFAULT_TEMPLATE) -> Conditions:
    """Conditions of segments of one length, computed now; see `Conditioning`."""
    return Conditioning(foundation, template)(found)


def unknown_words(foundation: Foundation, caption: str) -> list[str]:
    """Words of a caption that the model never saw; a language model's tokeniser has none."""
    encoder = foundation.encoder
    return encoder.vocabulary.unknown(caption) if isinstance(encoder, EmbeddedEncoder) else []


def known_words(foundation: Foundation) -> list[str]:
    """All words that captions may use, where they are few."""
    encoder = foundation.encoder
    return [w for w in encoder.vocabulary.known if w.isalpha()] if isinstance(encoder, EmbeddedEncoder) else []


def pictures(found: Sequence[Segment], fps: float, as_seen: bool = False) -> np.ndarray:
    """What the embedded encoders see of segments of one length: (B, T, 32, 32) uint8 at `fps` Hz.

    Where one object could be followed, the video itself; elsewhere (a camera's picture) the impacts and positions
    that the analysis found, drawn as `scenes.schematic` does. as_seen: the video itself, always.
    """
    frames = []
    for segment in found:
        clip, seen = segment.clip, segment.seen
        if seen.method != "track" and not as_seen:
            clip = Clip(clip.path, draw(seen.events, seen.positions, segment.reference.seconds, segment.caption), FPS)
        count = max(1, round(segment.reference.seconds * fps))
        at = ((np.arange(count) + 0.5) * clip.fps / fps).astype(int).clip(0, len(clip.frames) - 1)
        frames.append(picture(Clip(clip.path, clip.frames[at], fps)))
    return np.stack(frames)


def sections(plan: Plan) -> tuple[str, ...]:
    """The four texts in the fixed order the embedded text encoder expects."""
    return tuple(getattr(plan, name) for name in DIMENSIONS)
