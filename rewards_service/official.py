"""Reward formulas of the released PrismAudio code, as pure functions of what its four reward models measure.

Source: FunAudioLLM/ThinkSound, branch prismaudio, grpo/fast_grpo/: rewards.py, reward_meta.py, reward_itd.py, and the
msclap package. They are here to compare with, and as the `official` option of the scorers; the scorers' own defaults
differ, for the reasons that each of them gives.

All functions take numbers, lists or arrays that broadcast against each other and return float64. A NaN stays a NaN: the
released code turns a failed measurement into the score 0, this does not. Other shapes raise RewardError.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rewards_service.errors import RewardError

WEIGHTS = {"ms_clap": 1.0, "synch": 0.6, "itd": 0.4, "aesthetic": 0.1}
"""Of the configuration for eight GPUs, which trained the released model."""
WINDOW_S = 10.0
AESTHETIC_RATE = 16000


def total(ms_clap: ArrayLike, synch: ArrayLike, itd: ArrayLike, aesthetic: ArrayLike) -> Any:
    """1.0 ms_clap + 0.6 synch + 0.4 itd + 0.1 aesthetic (rewards.py:multi_score), the value that is group-normalised.

    The sum is formed before any normalisation, so the term with the widest spread (itd, in ms squared) steers it.
    """
    terms = _numbers(ms_clap=ms_clap, synch=synch, itd=itd, aesthetic=aesthetic)
    return sum(weight * terms[name] for name, weight in WEIGHTS.items())


def ms_clap(cosine: ArrayLike, logit_scale: ArrayLike) -> Any:
    """exp(logit_scale) cosine / 80: msclap's similarity of audio and text, scaled down."""
    terms = _numbers(cosine=cosine, logit_scale=logit_scale)
    return np.exp(terms["logit_scale"]) * terms["cosine"] / 80


def itd(crw_generated: ArrayLike, crw_reference: ArrayLike, gcc_generated: ArrayLike, gcc_reference: ArrayLike) -> Any:
    """-(1.25 d_crw^2 + 2.5 d_gcc^2) of the differences of mean inter-channel delays in ms; at most 0, unbounded below.

    crw: by StereoCRW (untrained in the released code). gcc: by GCC-PHAT.
    """
    d = _numbers(
        crw_generated=crw_generated,
        crw_reference=crw_reference,
        gcc_generated=gcc_generated,
        gcc_reference=gcc_reference,
    )
    d_crw = d["crw_generated"] - d["crw_reference"]
    d_gcc = d["gcc_generated"] - d["gcc_reference"]
    return -(5 * d_crw**2 / 2 + 5 * d_gcc**2) / 2


def aesthetic(ce: ArrayLike, cu: ArrayLike, pc: ArrayLike, pq: ArrayLike) -> Any:
    """(CE + CU - PC + PQ) / 40 of Audiobox's four axes (reward_meta.py, variant "all")."""
    axes = _numbers(ce=ce, cu=cu, pc=pc, pq=pq)
    return (axes["ce"] + axes["cu"] - axes["pc"] + axes["pq"]) / 40


def aesthetic_ce(ce: ArrayLike) -> Any:
    """CE / 20, content enjoyment alone (reward_meta.py, variant "CE")."""
    return _numbers(ce=ce)["ce"] / 20


def aesthetic_pc(pc: ArrayLike) -> Any:
    """PC / 20, production complexity alone, here with a plus (reward_meta.py, variant "PC")."""
    return _numbers(pc=pc)["pc"] / 20


def windows(samples: int, sample_rate: int = AESTHETIC_RATE) -> np.ndarray:
    """(W,) share of each 10 s window that a clip of so many samples fills; only the last is less than 1."""
    length = round(WINDOW_S * sample_rate)
    return np.array([min(samples - start, length) / length for start in range(0, samples, length)])


def axis_means(values: ArrayLike, weights: ArrayLike, clip: ArrayLike, clips: int) -> np.ndarray:
    """(clips,) means of (W,) window values by (W,) weights. clip: index of each window's clip, (W,) int.

    NaN for a clip with a NaN window or none. Raises RewardError for indices out of range.
    """
    terms = _numbers(values=values, weights=weights)
    index = np.asarray(clip)
    wrong = index.ndim != 1 or index.shape != terms["values"].shape or index.dtype.kind not in "iu"
    if wrong or (index.size and not 0 <= index.min() <= index.max() < clips):
        shape = terms["values"].shape
        raise RewardError(f"Windows of shape {shape} need the index of one of {clips} clips each; got {clip}.")
    sums = np.bincount(index, terms["weights"] * terms["values"], clips)
    shares = np.bincount(index, terms["weights"], clips)
    return np.divide(sums, shares, out=np.full(clips, np.nan), where=shares != 0)


def _numbers(**given: ArrayLike) -> dict[str, Any]:
    """Everything as float64 of one shape."""
    try:
        arrays = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in given.values()))
    except (ValueError, TypeError) as error:
        raise RewardError(f"{', '.join(given)} must be numbers of shapes that go together: {error}.") from error
    return dict(zip(given, arrays, strict=True))
