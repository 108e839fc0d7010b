"""What is compared: every variant as overrides of a preset or of the laptop recipe, at equal N, P and T."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.world import laptop
from pipelines.recipe import TrainRecipe
from settings import PrismError
from trainer.config import AlgorithmConfig, OptimiserConfig

# Taken from the laptop recipe by all, so that N, P and T are equal.
EQUAL = ("group_size", "prompts", "steps")
GUIDED = {"cfg_scale": 5.0, "kl_beta": 0.04, "kl_space": "x_no_dt"}
# Of the released group of 2 x 8 samples one half, i.e. one call of the released sampling function. Its window start is
# one constant per process, which is a defect (most steps are never trained); here it is drawn from the same range.
RELEASED = {"noises": 1, "grid": "inference", "window_policy": "uniform", "window_lo": 0}


@dataclass(frozen=True)
class Variant:
    """algorithm, optimiser: overrides; "group_size" as a value stands for N.

    base: "laptop" starts from recipes/laptop.yaml, else the name of a preset.
    released: the first step of the window costs one velocity per member, in rollout and training, as everybody else
    does it; the numbers are the same. half: window starts lie in 0..T/2, whatever T is.
    """

    title: str
    base: str = "laptop"
    algorithm: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    released: bool = False
    half: bool = False

    def configure(self, recipe: TrainRecipe | None = None, **changes: Any) -> AlgorithmConfig:
        """The algorithm section; changes win over everything. recipe: the laptop recipe, as overridden."""
        laptops = (recipe or laptop()).algorithm
        if self.base == "laptop":
            return AlgorithmConfig.model_validate({**laptops.model_dump(), **self._own(laptops), **changes})
        equal = {name: getattr(laptops, name) for name in EQUAL} | changes
        half = {"window_hi": equal["steps"] // 2} if self.half else {}
        return AlgorithmConfig.model_validate({"preset": self.base, **self.algorithm, **half, **equal})

    def _own(self, laptops: AlgorithmConfig) -> dict[str, Any]:
        return {name: laptops.group_size if value == "group_size" else value for name, value in self.algorithm.items()}

    def optimise(self, recipe: TrainRecipe | None = None, lr: float | None = None) -> OptimiserConfig:
        """The optimiser section. lr: instead of the variant's own."""
        values = {**(recipe or laptop()).optimiser.model_dump(), **self.optimiser}
        return OptimiserConfig.model_validate(values if lr is None else {**values, "lr": lr})


def _fast(title: str, optimiser: dict[str, Any] | None = None, **algorithm: Any) -> Variant:
    return Variant(title, "laptop", algorithm, optimiser or {})


# Methods with one optimiser step an iteration, so with the released decay of the average.
ONE_STEP = {"lr": 1.2e-3, "ema": 0.9}
SLOW = {"lr": 6e-4, "ema": 0.9}

# The first four are the methods; the rest leaves out or exchanges one idea of `fast`.
# Learning rates: chosen per method on the tuning scenes with `benchmarks.convergence --tuning`.
VARIANTS: dict[str, Variant] = {
    "full_sde": Variant("full-SDE GRPO", "full_sde", {"cfg_scale": 1.0, "kl_beta": 0.0}, SLOW, released=True),
    "full_sde_cfg": Variant("full-SDE GRPO, CFG 5, KL", "full_sde", GUIDED, SLOW, released=True),
    "official": Variant(
        "official Fast-GRPO, CFG 5, KL", "official", {**RELEASED, **GUIDED}, ONE_STEP, released=True, half=True
    ),
    "official_no_cfg": Variant(
        "official Fast-GRPO, no CFG",
        "official",
        {**RELEASED, **GUIDED, "cfg_scale": 1.0},
        ONE_STEP,
        released=True,
        half=True,
    ),
    "paper": Variant("paper", "paper", {}, ONE_STEP, released=True),
    "fast": Variant("fast"),
    "fast-euler_tail": _fast("Euler tail on the full grid", tail="euler", tail_steps=None),
    "fast-w2": _fast("window of 2 steps", window_size=2),
    "fast-all_starts": _fast("window starts over all steps", window_hi=None),
    "fast-weighted_sum": _fast("weighted sum, then normalise", advantage="weighted_sum_group_std"),
    "fast-ratio_clip": _fast("ratio clip", trust_region="ratio"),
    "fast-kl_region": _fast("exact-KL trust region", trust_region="kl"),
    "fast-ratio_norm": _fast("RatioNorm", trust_region="ratio_norm"),
    "fast-one_epoch": _fast("one epoch", epochs=1),
    "fast-one_minibatch": _fast("one minibatch", minibatches=1),
    "fast-own_noises": _fast("own initial noise per member", noises="group_size"),
    "fast-no_ema": _fast("no averaging of weights", {"ema": 0.0}),
    "fast-uniform": _fast("uniform window starts", window_policy="uniform"),
    "fast-stratified": _fast("stratified window starts", window_policy="stratified"),
    "fast-proportional": _fast("starts in proportion to spread", window_policy="proportional"),
    "fast-cps": _fast("CPS transition, 0.8", transition="cps", noise_level=0.8),
    "fast-exponential": _fast("exponential integrator, 1.0", transition="exponential", noise_level=1.0),
    "fast-project": _fast("conflict projection", conflict="project"),
}  # fmt: skip
METHODS = ("full_sde", "official", "official_no_cfg", "paper", "fast")


def variant(name: str) -> Variant:
    """The variant of a name. Raises PrismError naming the known ones."""
    if name not in VARIANTS:
        raise PrismError(f"There is no variant {name!r}; choose from {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def distinct(names: Sequence[str], recipe: TrainRecipe) -> tuple[list[str], list[str]]:
    """Names worth running, and those that say what `fast` does anyway, so that the recipe's default may move."""
    fast = variant("fast")
    same = [
        name
        for name in names
        if name != "fast"
        and variant(name).configure(recipe) == fast.configure(recipe)
        and variant(name).optimise(recipe) == fast.optimise(recipe)
    ]
    return [name for name in names if name not in same], same


@dataclass(frozen=True)
class Nfe:
    """Velocity evaluations of an iteration, by hand: a guided pair counts two."""

    rollout: int
    trained: int
    reference: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.rollout + self.trained + self.reference


def nfe(config: AlgorithmConfig, start: int, released: bool = False, shared_prefix: bool = True) -> Nfe:
    """Evaluations of one iteration whose window begins at `start`, from the algorithm's description alone.

    released: no shared first step. shared_prefix: False counts every member's own deterministic steps.
    """
    members, pair = config.group_size, lambda scale: 1 if scale == 1 else 2
    first = members if released or not shared_prefix else config.noises
    before = start * (config.noises if shared_prefix else members)
    rest = config.steps - start - config.width
    tail = rest if config.tail_steps is None else min(config.tail_steps, rest)
    window = first + members * (config.width - 1)
    trained = window * config.epochs
    groups = config.prompts
    return Nfe(
        groups * pair(config.cfg_scale) * (before + window + members * tail),
        groups * pair(config.cfg_scale) * trained,
        groups * pair(config.guided) * trained if config.kl_beta > 0 else 0,
    )


def starts(config: AlgorithmConfig) -> range:
    """Window starts that the policy may choose; all but "proportional" visit them equally often."""
    last = config.window_lo if config.window_policy == "fixed" else config.last_start
    return range(config.window_lo, last + 1)
