"""The device under measurement: sizes, random weights, timing, operation counts, what it can do at best."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from foundation.config import ModelConfig
from foundation.execution import Precision
from foundation.model import FlowModel, initialise_unit_gain
from settings import PrismError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Bench:
    """Sizes. tokens: of (video, text, sync). codec: width of the autoencoder. matrix: side of the product that measures
    the device.
    """

    config: ModelConfig
    device: torch.device
    frames: int
    tokens: tuple[int, int, int]
    prompts: int
    repeats: int
    codec: int
    matrix: int

    @classmethod
    def of(cls, device: str, small: bool, prompts: int, repeats: int) -> "Bench":
        """The released sizes, or the smallest. Raises PrismError without a GPU unless small on a CPU was asked for."""
        if device == "cpu" and small:
            config = ModelConfig(latent_channels=4, width=32, depth=1, heads=1, video_dim=4, text_dim=4, sync_dim=4)
            return cls(config, torch.device("cpu"), 8, (2, 3, 8), min(prompts, 2), 1, 2, 64)
        if device == "cpu" or small:
            raise PrismError(
                "The real-size benchmark needs a GPU; on a CPU it would take hours and say nothing. To try the code "
                "path without one: --device cpu --small, both together."
            )
        if not torch.cuda.is_available():
            raise PrismError(
                f"--device {device} was asked for, but torch {torch.__version__} sees no CUDA device. Run this on a "
                "machine with a GPU and a CUDA build of torch, or try the code path with --device cpu --small."
            )
        return cls(ModelConfig.released(), torch.device(device), 194, (36, 256, 216), prompts, repeats, 128, 8192)

    def model(self) -> FlowModel:
        """Random weights, none of them zero, so that no product is trivial."""
        torch.manual_seed(0)
        with self.device:
            model = FlowModel(self.config)
        initialise_unit_gain(model)
        with torch.no_grad():
            for parameter in model.trainable().values():
                if not parameter.any():
                    parameter.normal_(0, 0.02)
        return model.eval()

    def features(self) -> list[dict[str, np.ndarray]]:
        """Encoder features of every prompt."""
        random, dims = np.random.default_rng(0), (self.config.video_dim, self.config.text_dim, self.config.sync_dim)
        sizes = dict(zip(("video", "text", "sync"), zip(self.tokens, dims, strict=True), strict=True))
        return [
            {name: random.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
            for _ in range(self.prompts)
        ]


def precision(dtype: str) -> Precision:
    """The name by which the model knows a key of DTYPES."""
    return "bf16" if dtype == "bf16" else "fp32"


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], bench: Bench) -> float:
    """Median seconds of a call; the first two, which compile and allocate, do not count."""
    for _ in range(2):
        call()
    found = []
    for _ in range(bench.repeats):
        synchronise(bench.device)
        began = time.perf_counter()
        call()
        synchronise(bench.device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def teraflop(call: Callable[[], Any]) -> float:
    """FLOPs of a call, counted operator by operator: matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops() / 1e12


def ceilings(bench: Bench) -> dict[str, float]:
    """Measured TFLOP/s of a large product per dtype, and GB/s of a large copy (read and write counted)."""
    found, side = {}, bench.matrix
    for name, dtype in DTYPES.items():
        a = torch.randn(side, side, device=bench.device, dtype=dtype)
        b = torch.randn(side, side, device=bench.device, dtype=dtype)
        found[name] = 2 * side**3 / timed(lambda a=a, b=b: a @ b, bench) / 1e12
    source = torch.empty(side * side * 4, device=bench.device)
    target = torch.empty_like(source)
    found["bandwidth"] = 2 * source.nbytes / timed(lambda: target.copy_(source), bench) / 1e9
    return found


def reset_peak(bench: Bench) -> None:
    """Forget how much memory was held at once."""
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)


def peak(bench: Bench) -> float | None:
    """Most GiB held at once since `reset_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated(bench.device) / 2**30 if bench.device.type == "cuda" else None


def short(error: Exception) -> str:
    """An error in one line of a table."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
