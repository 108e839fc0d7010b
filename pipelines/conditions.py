"""What a model is conditioned on, out of segments: computed, or read where it was computed before."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from actors.messages import Prompt
from cot_service.plan import DEFAULT_TEMPLATE, DIMENSIONS, Plan
from foundation.build import Foundation
from foundation.conditions import Conditions
from foundation.embedded import EmbeddedEncoder, picture
from media.clip import Clip
from pipelines.segments import Segment
from scenes.schematic import describe, draw
from scenes.world import FPS
from settings import PrismError


def features(foundation: Foundation, found: Sequence[Segment], template: str = DEFAULT_TEMPLATE) -> Conditions:
    """Condition tensors of segments of one length.

    template: how the four texts become one prompt, for models that read one. Raises PrismError when a video cannot be
    read again, or when the segments' texts have different numbers of tokens (encode those one by one).
    """
    encoder = foundation.encoder
    if isinstance(encoder, EmbeddedEncoder):
        plans = [replace(s.plan, semantic=describe(s.plan.semantic) or s.plan.semantic) for s in found]
        return encoder(pictures(found, encoder.fps), [sections(plan) for plan in plans])
    texts = encoder.text([s.plan.join(template) for s in found])
    lengths = {len(text) for text in texts}
    if len(lengths) > 1:
        raise PrismError(f"Texts of {sorted(lengths)} tokens cannot share a batch; encode such segments one by one.")
    seconds = [segment.reference.seconds for segment in found]
    video = [encoder.video(s.path, s.start, length) for s, length in zip(found, seconds, strict=True)]
    sync = [encoder.sync(s.path, s.start, length) for s, length in zip(found, seconds, strict=True)]
    return Conditions(*(torch.from_numpy(np.stack(part)) for part in (video, texts, sync)))


def prompts(foundation: Foundation, found: Sequence[Segment], template: str = DEFAULT_TEMPLATE) -> list[Prompt]:
    """Prompts of segments, whose lengths may differ."""
    out = []
    for segment in found:
        encoded = features(foundation, [segment], template)
        arrays = {name: getattr(encoded, name)[0].numpy() for name in ("video", "text", "sync")}
        out.append(Prompt(segment.id, arrays, segment.reference))
    return out


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
