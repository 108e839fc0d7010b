"""Generation of whole clips on one device: from noise to waveform, with the released sampler and a faster one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.device import Bench, peak, precision, reset_peak, short, teraflop, timed
from foundation.conditions import Conditions
from foundation.execution import ExecutionConfig, execute
from foundation.generate import SamplerConfig, sample_latents, store_reduced
from foundation.oobleck import Oobleck
from foundation.output import normalise_peak

# As released, and the fewest evaluations that docs/benchmarks.md finds no worse.
CLIPS = {
    "released": SamplerConfig(steps=24, guidance=5.0),
    "abm3, 12 steps": SamplerConfig(solver="abm3", steps=12, guidance=5.0),
}


def samplers(bench: Bench) -> dict[str, SamplerConfig]:
    """How clips are generated; in one step where only the code path is tried."""
    if bench.frames == 194:
        return CLIPS
    return {name: config.model_copy(update={"steps": 1}) for name, config in CLIPS.items()}


class Clips:
    """Generation of whole clips: the flow model in the precision it samples with, and the autoencoder in fp32."""

    def __init__(self, bench: Bench, dtype: str, compiled: bool = False):
        self.bench = bench
        self.flow = bench.model().requires_grad_(False)
        execute(self.flow, ExecutionConfig(precision=precision(dtype), compile=compiled))
        if dtype == "bf16":
            store_reduced(self.flow)
        with bench.device:
            self.codec = Oobleck(bench.config.latent_channels, bench.codec).eval().requires_grad_(False)

    @torch.inference_mode()
    def generate(self, config: SamplerConfig, batch: int) -> Tensor:
        """Waveforms (B, 2, S), each at full scale."""
        arrays = self.bench.features()[0]
        conditions = Conditions(
            *(
                torch.tensor(arrays[name], device=self.bench.device).expand(batch, -1, -1)
                for name in ("video", "text", "sync")
            )
        )
        noise = torch.randn(batch, self.bench.config.latent_channels, self.bench.frames, device=self.bench.device)
        return normalise_peak(self.codec.decode(sample_latents(self.flow, conditions, noise, config)))


def clips(
    bench: Bench, dtype: str, mode: str, ceiling: dict[str, float], batches: Sequence[int]
) -> list[dict[str, Any]]:
    """A row per sampler and batch: seconds, FLOPs and bound of one clip, peak memory of the whole batch."""
    common = {"dtype": dtype, "mode": mode, "attention": "default", "preset": ""}
    rows = []
    try:
        work = Clips(bench, dtype, compiled=mode == "compile")
        plain = Clips(bench, dtype)
        weights = sum(p.nbytes for module in (plain.flow, plain.codec) for p in module.parameters())
        for name, config in samplers(bench).items():
            tflop = teraflop(lambda c=config: plain.generate(c, 1))
            for batch in batches:
                reset_peak(bench)
                seconds = timed(lambda c=config, b=batch: work.generate(c, b), bench) / batch
                passes = config.nfe // 2  # a guided pair reads the weights once
                read = passes * weights / batch / 1e9 / ceiling["bandwidth"]
                rows.append(
                    {**common, "what": f"clip, {name}", "rows": batch, "seconds": seconds, "tflop": tflop,
                     "bound_s": max(tflop / ceiling[dtype], read), "peak_gib": peak(bench), "mismatch": None}
                )  # fmt: skip
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        rows.append({**common, "what": "clip", "error": short(error)})
    return rows
