"""DeSync of generated sounds, as hkchengrex/av-benchmark (av_bench/evaluate.py) measures it. Lower is better.

Synchformer's likeliest offset between picture and sound, without its sign, in the first and in the last 4.8 s of each
clip. Sounds drawn at random from the classes would have 1.05 s; recordings do not have 0, since the model is right to
0.2 s only for two thirds of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.heldout import Watch
from evaluation.statistics import Estimate, mean_estimate
from rewards_service.batch import prepare
from rewards_service.released.synchformer import SynchformerScorer
from rewards_service.scores import Reference
from rewards_service.temporal import likeliest_offset
from settings import PrismError


@dataclass(frozen=True)
class DeSync:
    """Of B clips.

    clips: (B,) s, mean over both windows; NaN where it cannot be measured. missing: {clip id: reason} of those.
    """

    clips: np.ndarray
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def estimate(self) -> Estimate:
        """The metric: mean over the clips that could be measured, with its standard error."""
        return mean_estimate(self.clips)


def desync(
    scorer: SynchformerScorer, waveforms: np.ndarray, sample_rate: int, references: Sequence[Reference]
) -> DeSync:
    """DeSync of (B, 2, S) sounds with the pictures that B references name.

    Silent sounds are measured like others, as in the benchmark; clips below 4.8 s are not, since the benchmark has no
    windows for them. Raises PrismError for a scorer that is `official`, which sees other segments, RewardError for
    another shape.
    """
    if scorer.official:
        raise PrismError("DeSync needs the whole clip; give it a Synchformer scorer without official.")
    batch = prepare(np.asarray(waveforms)[:, None], sample_rate, list(references))
    found = scorer.windows(scorer.windows.mono(batch), list(references), batch.finite)
    clips = (np.abs(likeliest_offset(found.first)) + np.abs(likeliest_offset(found.last))) / 2
    window = scorer.model.window
    short = {g: f"it has {n} of the {window} segments of a window" for g, n in found.segments.items() if n < window}
    clips[list(short)] = np.nan
    reasons = {**found.missing, **found.gated, **short}
    lost = {g: reasons.get(g, "the waveform is not finite") for g in np.flatnonzero(np.isnan(clips)).tolist()}
    return DeSync(clips, {references[g].clip_id: why for g, why in lost.items()})


def watch(
    scorer: SynchformerScorer, sample_rate: int, references: Callable[[Sequence[Any]], Sequence[Reference]]
) -> Watch:
    """What `evaluation.heldout.evaluate` takes as `watch`, for "desync" beside the rewards.

    references: of the prompts that the evaluation hands over.
    """
    return lambda waveforms, prompts: {"desync": desync(scorer, waveforms, sample_rate, references(prompts)).clips}
