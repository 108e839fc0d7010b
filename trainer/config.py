"""Configuration of the algorithm, the optimiser and the learner."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from settings import Section

# `fast` is the class defaults: shared prefix, one pass per group, short AB2 tail.
# `paper` is arXiv 2511.18833 as printed: N = 16, T = 24, w = 2 with a uniform start over all steps, KL 0.04.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {
        "group_size": 16,
        "steps": 24,
        "window_size": 2,
        "window_lo": 0,
        "window_hi": None,
        "tail": "euler",
        "tail_steps": None,
        "advantage": "sum",
        "std": "group",
        "std_eps": 1e-6,
        "clip_range": 1e-4,
        "kl_beta": 0.04,
        "kl_space": "mean",
        "minibatches": 1,
    },
}


class AlgorithmConfig(Section):
    """Windowed Fast-GRPO. `preset` fills whatever the recipe leaves out; everything it names overrides the preset.

    group_size: N samples of one prompt. prompts: P prompts per iteration. steps: T of the sampling grid.
    window_size: w stochastic steps; their start is uniform over window_lo..window_hi, both included (None: T - w).
    noise_level: eta or a of the transition. tail_steps: steps after the window (None: the rest of the grid).
    advantage: "sum" weighs and adds the rewards, then normalises; "gdpo" normalises each reward first.
    std: whose standard deviation normalises, the group's or the whole batch's; std_eps is added to it.
    clip_range: of the ratio of mean-reduced densities. kl_space: KL to the start model between transition means, in
    units of their variance, or mean square between velocities. epochs: passes over a batch, each in `minibatches`
    optimiser steps split by group. groups_per_pass: groups in one forward and backward pass, to bound memory
    (None: the whole minibatch). ratio_tolerance: largest |log ratio| accepted before the first optimiser step.
    """

    preset: Literal["fast", "paper"] = "fast"
    group_size: int = Field(default=8, ge=2)
    prompts: PositiveInt = 12
    steps: int = Field(default=16, ge=2)
    grid: Literal["inference", "official_rl"] = "inference"
    window_size: PositiveInt = 1
    window_lo: NonNegativeInt = 0
    window_hi: NonNegativeInt | None = 3
    transition: Literal["flow_sde", "dance_sde", "cps", "exponential", "exponential_dance"] = "flow_sde"
    noise_level: PositiveFloat = 0.7
    tail: Literal["euler", "ab2", "dpmpp2m"] = "ab2"
    tail_steps: PositiveInt | None = 4
    cfg_scale: PositiveFloat = 1.0
    advantage: Literal["sum", "gdpo"] = "gdpo"
    std: Literal["group", "global"] = "group"
    std_eps: PositiveFloat = 1e-3
    clip_range: PositiveFloat = 1e-3
    adv_clip: PositiveFloat = 5.0
    kl_beta: NonNegativeFloat = 0.0
    kl_space: Literal["mean", "velocity"] = "velocity"
    epochs: PositiveInt = 1
    minibatches: PositiveInt = 2
    groups_per_pass: PositiveInt | None = None
    ratio_tolerance: PositiveFloat = 1e-4

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "fast")
        return {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}

    @model_validator(mode="after")
    def _check(self) -> "AlgorithmConfig":
        last = self.steps - self.window_size
        if last < 0:
            raise ValueError(f"window_size {self.window_size} is longer than the grid of {self.steps} steps")
        if self.window_lo > self.last_start or self.last_start > last:
            raise ValueError(
                f"window starts {self.window_lo}..{self.last_start} do not fit {self.steps} steps with a window of "
                f"{self.window_size}; they must lie in 0..{last}, in order"
            )
        if self.transition not in ("flow_sde", "dance_sde") and self.last_start + self.window_size == self.steps:
            raise ValueError(
                f"transition {self.transition!r} has no noise on the last step, so its density is undefined there; "
                f"set window_hi to at most {last - 1}"
            )
        if self.minibatches > self.prompts:
            raise ValueError(f"{self.minibatches} minibatches cannot be split out of {self.prompts} prompts")
        return self

    @property
    def last_start(self) -> int:
        """Largest first stochastic step."""
        return self.steps - self.window_size if self.window_hi is None else self.window_hi


class OptimiserConfig(Section):
    """AdamW, gradient clipping and the average of the weights that is evaluated and exported.

    lr: constant. grad_clip: largest norm of the whole gradient. ema: decay per optimiser step; 0 keeps the
    last weights.
    """

    lr: PositiveFloat = 6e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: NonNegativeFloat = 0.0
    eps: PositiveFloat = 1e-10
    grad_clip: PositiveFloat = 1.0
    ema: float = Field(default=0.9, ge=0, lt=1)


class LearnerConfig(Section):
    """The loop around the optimiser.

    num_workers: Ray Train workers; 0 trains in the driver process. use_gpu: one accelerator per worker.
    iterations: in the whole run. checkpoint_every, eval_every: in iterations, 0 for never; the end of a run always
    leaves a checkpoint.
    keep_checkpoints: how many of the newest stay on disk. max_failures: worker failures before the run gives up.
    torch_threads: of each learner process; results are bit-equal only for one number of threads.
    deadline_s: longest wait for one remote call, seconds. take_timeout_s: longest wait for a batch, seconds.
    """

    num_workers: NonNegativeInt = 0
    use_gpu: bool = False
    iterations: PositiveInt = 100
    checkpoint_every: NonNegativeInt = 25
    eval_every: NonNegativeInt = 25
    keep_checkpoints: PositiveInt = 3
    max_failures: NonNegativeInt = 3
    torch_threads: PositiveInt = 1
    deadline_s: PositiveFloat = 60.0
    take_timeout_s: PositiveFloat = 600.0
