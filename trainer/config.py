"""Configuration of the algorithm, the optimiser and the learner."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from settings import Section
from trainer.starts import WindowPolicy

# What a preset sets beyond the class defaults, which are `fast`. docs/presets.md shows them side by side.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    # arXiv 2511.18833 as printed: a window with a uniform start over all steps, KL of the policies.
    "paper": {
        "group_size": 16,
        "steps": 24,
        "window_size": 2,
        "window_policy": "uniform",
        "window_hi": None,
        "tail": "euler",
        "tail_steps": None,
        "advantage": "weighted_sum_group_std",
        "std_eps": 1e-6,
        "trust_region": "ratio",
        "kl_beta": 0.04,
        "kl_space": "x",
        "minibatches": 1,
        "epochs": 1,
        "refills": 0,
    },
    # The released code, FunAudioLLM/ThinkSound branch prismaudio, grpo/: one start per process for the whole run (6 is
    # that of rank 0 at 24 steps), two initial noises per group, guidance in rollout and training, another grid.
    "official": {
        "group_size": 16,
        "noises": 2,
        "steps": 24,
        "grid": "official_rl",
        "window_size": 2,
        "window_policy": "fixed",
        "window_lo": 6,
        "window_hi": 6,
        "tail": "euler",
        "tail_steps": None,
        "cfg_scale": 5.0,
        "advantage": "weighted_sum_global_std",
        "std_eps": 1e-4,
        "trust_region": "ratio",
        "kl_beta": 0.04,
        "kl_space": "x_no_dt",
        "minibatches": 1,
        "epochs": 1,
        "refills": 0,
    },
    # Flow-GRPO, yifan123/flow_grpo: every step stochastic and trained.
    "full_sde": {
        "window_size": None,
        "window_hi": None,
        "tail": "euler",
        "tail_steps": None,
        "advantage": "weighted_sum_group_std",
        "std_eps": 1e-4,
        "trust_region": "ratio",
        "minibatches": 1,
        "epochs": 1,
        "groups_per_pass": 1,
        "refills": 0,
    },
}


class AlgorithmConfig(Section):
    """Windowed Fast-GRPO. `preset` fills whatever the recipe leaves out; everything it names overrides the preset.

    group_size: N samples of one prompt. noises: initial noises of a group, each continued by N / noises members.
    prompts: P prompts per iteration. steps: T of the sampling grid. window_size: w stochastic steps (None: all).
    window_policy: how their start is chosen within window_lo..window_hi, both included (None: T - w), see
    `trainer.fast_grpo.window_start`; window_period: iterations between two moves of a progressive window. noise_level:
    eta or a of the transition. tail_steps: steps after the window (None: the rest of the grid). advantage: see
    `trainer.advantages.advantages`; std_eps is added to the standard deviation, reward_floor is the smallest spread of
    a reward that counts as more than the scorer's noise, in reward units. A group in which no reward spreads more is
    dropped and replaced, at most `refills` times; with 0 it is kept and teaches nothing. conflict: "project" turns the
    weights so that no reward is traded away. trust_region: "ratio" clips at clip_range the ratio of mean-reduced
    densities, "ratio_norm" the normalised one, "kl" masks samples beyond kl_limit (mean over elements). kl_beta: weight
    of the distance to the start model, between transition means in units of their variance ("x"), of their diffusion
    ("x_no_dt", the released code) or between velocities ("v"); reference_cfg_scale: guidance of that model (None:
    cfg_scale), so that training without guidance can learn it. epochs: passes over a batch, each in `minibatches`
    optimiser steps split by group. groups_per_pass: groups in one forward and backward pass, to bound memory (None: the
    whole minibatch). samples_per_pass: members of one group in a pass, where a group is too much; a part of the members
    of each initial noise, or all members of some. ratio_tolerance: largest |log ratio| accepted before the first
    optimiser step (None: by precision, see `trainer.invariants`).
    """

    preset: Literal["fast", "paper", "official", "full_sde"] = "fast"
    group_size: int = Field(default=8, ge=2)
    noises: PositiveInt = 1
    prompts: PositiveInt = 12
    steps: int = Field(default=16, ge=2)
    grid: Literal["inference", "official_rl"] = "inference"
    window_size: PositiveInt | None = 1
    window_policy: WindowPolicy = "stratified"
    window_lo: NonNegativeInt = 0
    window_hi: NonNegativeInt | None = 3
    window_period: PositiveInt = 25
    transition: Literal["flow_sde", "dance_sde", "cps", "exponential", "exponential_dance"] = "flow_sde"
    noise_level: PositiveFloat = 0.7
    tail: Literal["euler", "ab2", "dpmpp2m"] = "ab2"
    tail_steps: PositiveInt | None = 3
    cfg_scale: PositiveFloat = 1.0
    advantage: Literal["weighted_sum_group_std", "weighted_sum_global_std", "per_reward", "no_std"] = "per_reward"
    std_eps: NonNegativeFloat = 0.0
    reward_floor: NonNegativeFloat = 1e-3
    adv_clip: PositiveFloat = 5.0
    conflict: Literal["none", "project"] = "none"
    refills: NonNegativeInt = 2
    trust_region: Literal["ratio", "ratio_norm", "kl"] = "kl"
    clip_range: PositiveFloat = 1e-4
    kl_limit: PositiveFloat = 1e-5
    kl_beta: NonNegativeFloat = 0.0
    kl_space: Literal["x", "x_no_dt", "v"] = "v"
    reference_cfg_scale: PositiveFloat | None = None
    epochs: PositiveInt = 2
    minibatches: PositiveInt = 2
    groups_per_pass: PositiveInt | None = None
    samples_per_pass: PositiveInt | None = None
    ratio_tolerance: PositiveFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "fast")
        return {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}

    @model_validator(mode="after")
    def _check(self) -> "AlgorithmConfig":
        last = self.steps - self.width
        if last < 0:
            raise ValueError(f"window_size {self.width} is longer than the grid of {self.steps} steps")
        if self.window_lo > self.last_start or self.last_start > last:
            raise ValueError(
                f"window starts {self.window_lo}..{self.last_start} do not fit {self.steps} steps with a window of "
                f"{self.width}; they must lie in 0..{last}, in order"
            )
        if self.transition not in ("flow_sde", "dance_sde") and self.last_start + self.width == self.steps:
            remedy = f"set window_hi to at most {last - 1}" if last else f"set window_size to at most {self.steps - 1}"
            raise ValueError(
                f"transition {self.transition!r} has no noise on the last step, so its density is undefined there; "
                f"{remedy}"
            )
        if self.minibatches > self.prompts:
            raise ValueError(f"{self.minibatches} minibatches cannot be split out of {self.prompts} prompts")
        if self.conflict == "project" and self.advantage != "per_reward":
            raise ValueError(
                "conflict 'project' compares rewards on one scale; it needs advantage 'per_reward', got "
                f"{self.advantage!r}"
            )
        if self.group_size % self.noises:
            raise ValueError(f"{self.noises} initial noises cannot be shared evenly by {self.group_size} members")
        part = self.samples_per_pass or self.group_size
        if self.group_size % part or (self.branches % part and part % self.branches):
            raise ValueError(
                f"samples_per_pass {part} does not split {self.group_size} members of {self.noises} initial noises "
                f"evenly; use a divisor of {self.branches}, or a multiple of it that divides {self.group_size}"
            )
        return self

    @property
    def width(self) -> int:
        """Stochastic steps."""
        return self.steps if self.window_size is None else self.window_size

    @property
    def last_start(self) -> int:
        """Largest first stochastic step."""
        return self.steps - self.width if self.window_hi is None else self.window_hi

    @property
    def branches(self) -> int:
        """Members that continue one initial noise."""
        return self.group_size // self.noises

    @property
    def members(self) -> list[slice]:
        """The members of each pass over a group."""
        part = self.samples_per_pass or self.group_size
        return [slice(first, first + part) for first in range(0, self.group_size, part)]

    @property
    def guided(self) -> float:
        """Guidance scale of the reference."""
        return self.cfg_scale if self.reference_cfg_scale is None else self.reference_cfg_scale


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
    ema: float = Field(default=0.98, ge=0, lt=1)


class LearnerConfig(Section):
    """The loop around the optimiser.

    num_workers: Ray Train workers; 0 trains in the driver process. use_gpu: train on an accelerator. gpus_per_worker:
    how much of one a worker reserves; a part leaves the rest to rollout workers and scorers. In synchronous runs they
    take turns (while one works the others wait for its result), so it is memory that has to be shared, not time.
    reference: where the start model of a KL distance is kept: on the device, or on the CPU but for one stretch of each
    iteration ("offload"); with adapters it is the model without them, and costs nothing.
    iterations: in the whole run. checkpoint_every, eval_every: in iterations, 0 for never; the end of a run always
    leaves a checkpoint.
    keep_checkpoints: how many of the newest stay on disk. max_failures: worker failures before the run gives up.
    torch_threads: of each learner process; results are bit-equal only for one number of threads.
    deadline_s: longest wait for one remote call, seconds. take_timeout_s: longest wait for a batch, seconds.
    """

    num_workers: NonNegativeInt = 0
    use_gpu: bool = False
    gpus_per_worker: float = Field(default=1.0, gt=0, le=1)
    reference: Literal["device", "offload"] = "device"
    iterations: PositiveInt = 100
    checkpoint_every: NonNegativeInt = 25
    eval_every: NonNegativeInt = 25
    keep_checkpoints: PositiveInt = 3
    max_failures: NonNegativeInt = 3
    torch_threads: PositiveInt = 1
    deadline_s: PositiveFloat = 60.0
    take_timeout_s: PositiveFloat = 600.0

    @property
    def resources(self) -> dict[str, float]:
        """What one worker reserves in Ray."""
        return {"CPU": 1, "GPU": self.gpus_per_worker} if self.use_gpu else {"CPU": 1}
