"""Ratings of the same sounds by our scorer and by the package. Run in its environment: FORGED SOUNDS WRONG...

SOUNDS: a .npz with arrays (G, N, 2, S) named by their rate in Hz. WRONG: weights with the right names and other shapes.
Prints JSON: by rate and layout, both results; what is said of each of WRONG.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards_service.cpu_wheels import tolerate
from rewards_service.errors import RewardError
from rewards_service.released.audiobox import AudioboxScorer
from rewards_service.released.audiobox_files import AXES
from rewards_service.scores import Reference

LAYOUTS = ("checkpoint.pt", "saved")


def compare(forged: Path, sounds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Values, missing reasons and axes of the scorer; axes of the package."""
    tolerate()
    from audiobox_aesthetics.infer import AesPredictor  # pyright: ignore[reportMissingImports]

    predictor, out = None, {}
    for rate, waveforms in sounds.items():
        references = [Reference(str(g), "", 1.0, (), (), 16.0) for g in range(len(waveforms))]
        for layout in LAYOUTS:
            scorer = AudioboxScorer(weights=str(forged / layout), batch_windows=3)
            scores = scorer.score(waveforms, int(rate), references, detail=True)
            assert scores.measured is not None
            out[f"{layout}@{rate}"] = {
                "values": scores.values.tolist(),
                "missing": [[*at, why] for at, why in scores.missing.items()],
                "axes": [[item[axis] for axis in AXES] for row in scores.measured for item in row],
            }
        predictor = predictor or AesPredictor(checkpoint_pth=str(forged / "checkpoint.pt"))
        flat = [torch.tensor(np.nan_to_num(clip)) for clip in waveforms.reshape(-1, *waveforms.shape[2:])]
        told = [predictor.forward([{"path": clip, "sample_rate": int(rate)}])[0] for clip in flat]
        out[f"package@{rate}"] = [[item[axis] for axis in AXES] for item in told]
    rate, waveforms = next(iter(sounds.items()))
    rough = AudioboxScorer(weights=str(forged / "saved"), autocast=True)
    scores = rough.score(waveforms[:1, :1], int(rate), [Reference("0", "", 1.0, (), (), 16.0)], detail=True)
    assert scores.measured is not None
    out["autocast"] = [scores.measured[0][0][axis] for axis in AXES]
    return out


def refused(weights: str) -> str:
    """The error that these weights end in; empty when there is none."""
    try:
        AudioboxScorer(weights=weights).load()
    except RewardError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    with np.load(sys.argv[2]) as given:
        result = compare(Path(sys.argv[1]), dict(given))
    print(json.dumps(result | {"refused": [refused(weights) for weights in sys.argv[3:]]}))
