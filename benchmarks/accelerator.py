"""The real-size model on one device: a generated clip, velocity, rollout and learner step against their bounds.

Run: python -m benchmarks.accelerator --out runs/accelerator.json [--dtypes bf16 fp32] [--modes eager compile graphs]
                                      [--presets fast official]
     python -m benchmarks.accelerator --device cpu --small --out FILE   # the code path only, in seconds
Random weights in the released dimensions (518 M parameters and the autoencoder's 156 M), 9 s clips (194 frames), 256
text tokens. A clip is everything from noise to waveform: the solver's steps and the autoencoder. A bound is the larger
of FLOPs over the fastest matrix product of that dtype measured here, and bytes of the weights, once per velocity call,
over the bandwidth of a large copy measured here. Needs `foundation/`, `trainer/`, torch and diffusers alone.
"""

import argparse
import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.clips import clips
from benchmarks.device import DTYPES, Bench, ceilings, peak, precision, reset_peak, short, teraflop, timed
from benchmarks.machine import describe
from foundation.conditions import Conditions
from foundation.dit import Prepared
from foundation.execution import ExecutionConfig
from foundation.generate import store_reduced
from foundation.grids import grid
from foundation.sampling import hybrid_sample
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Group, group_id
from trainer.update import Learner
from trainer.windows import window

ATTENTION = {
    "default": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
MODES = ("eager", "compile", "graphs")
PRESETS = ("fast", "official")
WEIGHTS = {"first": 1.0, "second": 1.0}


def algorithm(prompts: int, preset: str = "fast") -> AlgorithmConfig:
    """A preset, with one optimiser step; what reduced precision moves the ratio off 1 by is reported, not refused."""
    return AlgorithmConfig.model_validate(
        {"preset": preset, "prompts": prompts, "minibatches": 1, "ratio_tolerance": 1e3}
    )


class Work:
    """Rollout and learner step of one iteration, in one precision. `velocity` may be replaced by a faster one.

    In bf16 the matrices of the sampler's blocks are bf16, and the learner's fp32 under autocast.
    """

    def __init__(self, bench: Bench, dtype: str, preset: str = "fast"):
        self.bench, self.preset = bench, preset
        self.config = algorithm(bench.prompts, preset)
        execution = ExecutionConfig(precision=precision(dtype))
        optimiser = OptimiserConfig(lr=1e-6)
        self.learner = Learner(bench.model(), self.config, optimiser, WEIGHTS, execution=execution)
        self.model = self.learner.model
        # A rollout worker holds its own copy, in the precision it samples with.
        self.sampler = copy.deepcopy(self.model).requires_grad_(False)
        if dtype == "bf16":
            store_reduced(self.sampler)
        self.inputs = bench.features()
        self.stretch = window(0, 0, self.config)
        self.velocity: Callable[[Tensor, Tensor, Prepared], Tensor] = self.sampler.velocity
        self.calls = 0

    def conditions(self) -> Conditions:
        """Of all prompts, on the device."""
        return Conditions(
            *(
                torch.tensor(np.stack([entry[name] for entry in self.inputs]), device=self.bench.device)
                for name in ("video", "text", "sync")
            )
        )

    def prepared(self, copies: int = 1) -> Prepared:
        """What the DiT needs of the prompts, each `copies` times in the sampler's row order."""
        frames = self.bench.frames
        with torch.no_grad():
            conditioned = self.sampler.condition(self.conditions(), frames)
            return self.sampler.prepare(conditioned, frames, self.config.cfg_scale).tile(copies)

    def states(self, rows: int) -> Tensor:
        """Latents of the real shape."""
        return torch.randn(rows, self.bench.config.latent_channels, self.bench.frames, device=self.bench.device)

    @torch.no_grad()
    def rollout(self) -> list[Group]:
        """Groups of one iteration, with random rewards."""
        config, bench = self.config, self.bench
        alone = self.prepared().repeat_interleave(config.noises)
        wide = {len(alone): alone, len(alone) * config.branches: alone.tile(config.branches)}
        sigmas = grid(config.grid, config.steps)
        self.calls = 0

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            self.calls += 1
            return self.velocity(x, sigma, wide[len(x)])

        _, record = hybrid_sample(
            velocity, self.states(len(alone)), sigmas, (self.stretch.start, self.stretch.size),
            config.transition, config.noise_level, config.branches, None, config.tail, config.tail_steps,
        )  # fmt: skip
        weights = self.learner.checksums[self.learner.version]
        # Rows are branch-major, groups want the members of one initial noise together.
        latents, means, log_probs = (
            rows.unflatten(1, (config.branches, bench.prompts, config.noises)).movedim(1, 3).flatten(2, 3).cpu().numpy()
            for rows in (record.latents, record.means, record.log_probs)
        )
        random = np.random.default_rng(0)
        return [
            Group(
                id=group_id(self.learner.version, place), iteration=self.learner.version, index=place,
                clip_id=f"clip{place}", version=self.learner.version, weights_checksum=weights, window=self.stretch,
                sigmas=sigmas, noises=config.noises, conditions=self.inputs[place],
                latents=np.ascontiguousarray(latents[:, place]),
                means=np.ascontiguousarray(means[:, place]), log_probs=np.ascontiguousarray(log_probs[:, place]),
                nfe_rollout=record.rows // bench.prompts,
                rewards={name: random.random(config.group_size) for name in WEIGHTS},
            )
            for place in range(bench.prompts)
        ]  # fmt: skip

    def update(self, groups: Sequence[Group]) -> dict[str, Any]:
        """A learner step on these groups, as if they were of its current version."""
        version = self.learner.version
        for place, group in enumerate(groups):
            group.iteration = group.version = version
            group.id, group.weights_checksum = group_id(version, place), self.learner.checksums[version]
        return self.learner.update(IterationBatch.of(version, groups))


class Graphs:
    """The velocity as CUDA graphs, one per batch size, replayed on static inputs."""

    def __init__(self, work: Work):
        self.work, self.graphs = work, {}

    def __call__(self, x: Tensor, sigma: Tensor, prepared: Prepared) -> Tensor:
        """As FlowModel.velocity; the result is overwritten by the next call of that size."""
        key = len(x)
        if key not in self.graphs:
            self.graphs[key] = self._capture(x, sigma, prepared)
        graph, state, level, result = self.graphs[key]
        state.copy_(x)
        level.copy_(sigma)
        graph.replay()
        return result.clone()

    def _capture(self, x: Tensor, sigma: Tensor, prepared: Prepared) -> tuple[Any, Tensor, Tensor, Tensor]:
        state, level = x.clone(), sigma.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.work.sampler.velocity(state, level, prepared)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.work.sampler.velocity(state, level, prepared)
        return graph, state, level, result


def measure(
    bench: Bench, dtype: str, mode: str, attention: str, ceiling: dict[str, float], preset: str = "fast"
) -> list[dict[str, Any]]:
    """Rows of velocity, rollout and learner step; a combination that the device refuses is one row with its error."""
    common = {"dtype": dtype, "mode": mode, "attention": attention, "preset": preset}
    backend = ATTENTION[attention]
    try:
        with sdpa_kernel(backend) if backend is not None else contextlib.nullcontext():
            return [{**common, **row} for row in _rows(bench, dtype, mode, ceiling, preset)]
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        return [{**common, "what": "all", "error": short(error)}]


def _rows(bench: Bench, dtype: str, mode: str, ceiling: dict[str, float], preset: str) -> Iterator[dict[str, Any]]:
    work = Work(bench, dtype, preset)
    members, sigma = work.config.group_size, torch.tensor(0.5, device=bench.device)
    wide, x = work.prepared(members), work.states(bench.prompts * members)
    weight_bytes = sum(p.numel() for p in work.model.trainable().values()) * torch.finfo(DTYPES[dtype]).bits / 8

    def bound(tflop: float, passes: int) -> float:
        return max(tflop / ceiling[dtype], passes * weight_bytes / 1e9 / ceiling["bandwidth"])

    @torch.no_grad()
    def velocity() -> None:
        work.velocity(x, sigma, wide)

    # Counted before anything is compiled or captured, since those hide the operators.
    groups: list[Group] = work.rollout()
    calls = work.calls
    flops = {"velocity": teraflop(velocity), "rollout": teraflop(work.rollout)}
    flops["learner step"] = teraflop(lambda: work.update(groups))
    if mode == "compile":
        work.model.dit.compile()
        work.sampler.dit.compile()
    elif mode == "graphs":
        if bench.device.type != "cuda":
            raise RuntimeError("CUDA graphs need a CUDA device")
        work.velocity = Graphs(work)

    metrics: dict[str, Any] = {}

    def step() -> None:
        metrics.update(work.update(groups))

    # Learner: forward, and backward with twice its work, each reading the weights; then gradients and optimiser.
    jobs = (("velocity", velocity, 1), ("rollout", work.rollout, calls), ("learner step", step, 3))
    for what, call, passes in jobs if preset == "fast" else jobs[1:]:
        if what == "learner step" and mode == "graphs":
            continue  # only the sampler's velocity is captured
        tflop = flops[what]
        reset_peak(bench)
        yield {
            "what": what, "seconds": timed(call, bench), "tflop": tflop, "bound_s": bound(tflop, passes),
            "rows": bench.prompts * members,
            "peak_gib": peak(bench), "mismatch": metrics.get("mismatch"),
        }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every combination and write one JSON file. Raises PrismError without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="smallest sizes, only with --device cpu")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 8], help="clips generated at once")
    parser.add_argument("--attention", nargs="+", choices=list(ATTENTION), default=list(ATTENTION))
    options = parser.parse_args(arguments)
    bench = Bench.of(options.device, options.small, options.prompts, options.repeats)
    torch.backends.cuda.matmul.allow_tf32 = False
    ceiling = ceilings(bench)
    rows = []
    for dtype in options.dtypes:
        for mode in options.modes:
            if mode != "graphs":  # alone on the device, so that the peak is that of generation
                rows += clips(bench, dtype, mode, ceiling, options.clips)
                print(rows[-1], flush=True)
            # Backends are compared in eager mode with `fast`; everything else runs with the default one.
            for preset in options.presets:
                for attention in options.attention if mode == "eager" and preset == "fast" else ["default"]:
                    rows += measure(bench, dtype, mode, attention, ceiling, preset)
                    print(rows[-1], flush=True)
    found = {
        "schema": 1, "machine": describe(), "small": options.small, "ceilings": ceiling, "prompts": bench.prompts,
        "parameters": sum(p.numel() for p in bench.model().parameters()), "rows": rows,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
