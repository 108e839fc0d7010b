"""Aesthetic reward with Meta's Audiobox-Aesthetics: how a sound would be rated by people, on four axes.

Source of the model: facebookresearch/audiobox-aesthetics (Tjandra et al. 2025, arXiv:2502.05139), package 0.0.4. Its
weights are CC BY 4.0.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from rewards_service import official
from rewards_service.batch import Batch, finish, prepare
from rewards_service.environments import Environment
from rewards_service.errors import RewardConfigError, RewardError
from rewards_service.released.audiobox_files import AXES, check
from rewards_service.scores import Reference, Scores

RATE = official.AESTHETIC_RATE
FRAME_S = 0.1
SILENT_FRAME_DB = -60.0
LOUD_PART_DB = 10.0
LOWEST = {"official": -0.25}
"""What silence is worth, where it is not 0: less than any sound."""
Formula = Literal["content", "official", "ce", "cu", "pc", "pq"]


@dataclass(frozen=True)
class AudioboxScorer:
    """Content enjoyment (CE), usefulness (CU), production complexity (PC) and quality (PQ), each about 1 to 10.

    formula: what becomes of them.

    - "content", the default: mean of CE, CU and PQ, mapped from 1..10 to 0..1, times two guards in [0, 1]. Complexity
      is measured and left out. The released code subtracts it, which pays for emptiness: of two equally good recordings
      the one with fewer sources wins, whatever the picture shows, and dropping a sound is the cheapest way to gain.
      Adding it would pay for clutter. How much ought to be heard is for the semantic and temporal rewards to say.
    - "official": (CE + CU - PC + PQ) / 40 as released, without guards.
    - "ce", "cu", "pc", "pq": that axis / 20 (the first and third are variants of the released code), without guards.

    The guards stop what the network itself rewards wrongly: it likes quiet, clean, nearly empty recordings. One is 1
    while the level of the loud parts is within `level_db` (dBFS) and falls to 0 over `margin_db` on either side; the
    other is 1 when at least the share `sounding` of the clip lies above -60 dBFS, and proportionally less below.
    Neither asks for more: a recording in a usual range keeps the network's score. The network hears 16 kHz mono, so
    hiss above 8 kHz costs nothing here; and like every learned judge it is best given a small weight.

    weights: checkpoint.pt of the authors, or a folder with config.json and model.safetensors (the layout of
    facebook/audiobox-aesthetics). batch_windows: 10 s windows in one pass of the network. autocast: bfloat16 products,
    for GPUs; the package's own setting for it has no effect in 0.0.4.
    """

    weights: str = ""
    formula: Formula = "content"
    level_db: tuple[float, float] = (-40.0, -8.0)
    margin_db: float = 12.0
    sounding: float = 0.1
    batch_windows: int = 16
    autocast: bool = False
    device: str = "cpu"

    bounds: ClassVar[tuple[float, float]] = (-0.25, 1.0)
    environment: ClassVar[Environment] = Environment(
        "audiobox", ("audiobox-aesthetics==0.0.4", "torchaudio==2.11.0"), without=("numpy",)
    )

    def __post_init__(self) -> None:
        if self.formula not in get_args(Formula):
            raise RewardConfigError(f"formula is {self.formula!r}; expected one of {', '.join(get_args(Formula))}.")
        if not self.weights:
            raise RewardConfigError(
                "audiobox needs options.weights: checkpoint.pt, or the folder of facebook/audiobox-aesthetics."
            )
        low, high = self.level_db
        if not low < high or self.margin_db <= 0 or not 0 < self.sounding <= 1 or self.batch_windows < 1:
            raise RewardConfigError(
                "audiobox needs level_db as [lower, higher], margin_db > 0, sounding in (0, 1] and batch_windows >= 1; "
                f"got {list(self.level_db)}, {self.margin_db}, {self.sounding} and {self.batch_windows}."
            )

    def load(self) -> None:
        """Read the weights. Raises RewardError for a file that is absent, damaged, of another layout, or with NaN."""
        _ = self._model

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms; the references matter only for their number."""
        self.load()
        batch = prepare(waveforms, sample_rate, references)
        axes = self._axes(batch)
        guards = _guards(batch, self.level_db, self.margin_db, self.sounding)
        values = torch.from_numpy(self._values(axes, guards))
        measured = None
        if detail:
            columns = {**axes, **guards}
            measured = [
                {
                    "basis": f"Audiobox-Aesthetics, {self.formula}",
                    **{name: _rounded(column[i]) for name, column in columns.items()},
                }
                for i in range(len(values))
            ]
        return finish(batch, values, measured, self.bounds, LOWEST.get(self.formula, 0.0))

    def _values(self, axes: dict[str, np.ndarray], guards: dict[str, np.ndarray]) -> np.ndarray:
        """(B,) scores by the formula; NaN where an axis is NaN."""
        if self.formula == "official":
            return official.aesthetic(axes["CE"], axes["CU"], axes["PC"], axes["PQ"])
        if self.formula != "content":
            return axes[self.formula.upper()] / 20
        mean = (axes["CE"] + axes["CU"] + axes["PQ"]) / 3
        return np.clip((mean - 1) / 9, 0, 1) * guards["level_guard"] * guards["sounding_guard"]

    def _axes(self, batch: Batch) -> dict[str, np.ndarray]:
        """(B,) float64 of each axis: means over 10 s windows, weighted by how far each is filled."""
        clips = len(batch.audio)
        samples, parts = 0, []
        for some in batch.audio.split(self.batch_windows):
            samples, windows, masks = self._windows(some, batch.sample_rate)
            parts.append(self._predict(windows, masks))
        rows = torch.cat(parts, 1).double().cpu().numpy()
        share = official.windows(samples)
        clip, weights = np.repeat(np.arange(clips), len(share)), np.tile(share, clips)
        means = [official.axis_means(row, weights, clip, clips) for row in rows]
        return dict(zip(AXES, means, strict=True))

    def _windows(self, clips: Tensor, sample_rate: int) -> tuple[int, Tensor, Tensor]:
        """(C, 2, S) clips to their length at 16 kHz, (C * W, 1, 160000) windows and what of them is no padding."""
        from torchaudio.functional import resample  # pyright: ignore[reportMissingImports]

        mono = resample(clips.to(self.device).mean(1), sample_rate, RATE)
        length, samples = round(official.WINDOW_S * RATE), mono.shape[-1]
        whole = torch.nn.functional.pad(mono, (0, -samples % length))
        real = (torch.arange(whole.shape[-1], device=mono.device) < samples).expand(len(clips), -1)
        return samples, whole.reshape(-1, 1, length), real.reshape(-1, 1, length)

    def _predict(self, windows: Tensor, masks: Tensor) -> Tensor:
        """(4, W) ratings of windows, in the order of `AXES`, on the device."""
        model, transforms = self._model
        parts = []
        with torch.inference_mode():
            for wav, mask in zip(windows.split(self.batch_windows), masks.split(self.batch_windows), strict=True):
                out = model({"wav": wav, "mask": mask})
                parts.append(torch.stack([transforms[axis].inverse(out[axis].float()) for axis in AXES]))
        return torch.cat(parts, 1)

    @cached_property
    def _model(self) -> tuple[Any, dict[str, Any]]:
        """The network on the device, and the inverse of each axis' normalisation."""
        from rewards_service.cpu_wheels import tolerate

        check(Path(self.weights))
        tolerate()
        from audiobox_aesthetics.infer import AesPredictor, Normalize  # pyright: ignore[reportMissingImports]
        from audiobox_aesthetics.model.aes import AesMultiOutput  # pyright: ignore[reportMissingImports]

        try:
            if Path(self.weights).is_dir():
                model = AesMultiOutput.from_pretrained(self.weights, local_files_only=True, strict=True)
            else:
                model = AesPredictor(checkpoint_pth=self.weights).model
        except (RuntimeError, OSError, ValueError, TypeError, KeyError) as error:
            raise RewardError(f"The audiobox-aesthetics package cannot load {self.weights}: {error}") from error
        bad = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
        if bad:
            raise RewardError(f"{self.weights} holds NaN or Inf in {', '.join(bad[:5])}; copy it again.")
        if self.autocast:  # its forward pass has a context of its own, which would end one around it
            model.precision, model.enable_autocast = torch.bfloat16, True
        transforms = {axis: Normalize(**model.target_transform[axis]) for axis in AXES}
        return model.to(self.device).eval(), transforms


def _guards(batch: Batch, level_db: tuple[float, float], margin_db: float, sounding: float) -> dict[str, np.ndarray]:
    """(B,) level of the loud parts in dBFS, share of the clip that sounds, and the guards made of them.

    The loud parts are the 100 ms frames less than 10 dB below the mean power, as broadcast loudness gates them
    (ITU-R BS.1770-4), so that rests between the sounds of a sparse clip do not count as quietness.
    """
    length = max(round(FRAME_S * batch.sample_rate), 1)
    whole = max(batch.audio.shape[-1] // length, 1)
    frames = batch.audio[..., : whole * length].unflatten(-1, (whole, -1))
    power = frames.square().mean((1, 3)).double().clamp_min(1e-12)
    loud = power >= power.mean(1, keepdim=True) * 10 ** (-LOUD_PART_DB / 10)
    level = 10 * torch.log10((power * loud).sum(1) / loud.sum(1))
    share = (power > 10 ** (SILENT_FRAME_DB / 10)).double().mean(1)
    low, high = level_db
    outside = torch.maximum(low - level, level - high).clamp_min(0)
    guards = {
        "level_db": level,
        "sounding_share": share,
        "level_guard": (1 - outside / margin_db).clamp_min(0),
        "sounding_guard": (share / sounding).clamp_max(1),
    }
    return {name: guard.numpy() for name, guard in guards.items()}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
