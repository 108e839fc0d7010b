"""What a recipe may say: every room's section, put together."""

from pathlib import Path

from pydantic import Field

from actors.config import BufferConfig, RolloutConfig
from cluster.config import RayConfig
from cot_service.config import PlannerConfig
from foundation.config import ModelConfig
from foundation.encoders import EncoderConfig
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig
from foundation.release import EncodingConfig, is_release
from pipelines.run_folder import RunConfig
from rewards_service.config import RewardConfig
from scenes.config import ScenesConfig
from settings import PrismError, Section
from trainer.config import AlgorithmConfig, LearnerConfig, OptimiserConfig
from trainer.pretrain import PretrainConfig

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"


class EvaluationConfig(Section):
    """Held-out scoring: plain ODE sampling with fixed noise.

    steps: Euler steps. seed: of the noise. cfg_scale: guidance scale the model is judged with, 1 is none. guidance:
    other scales the pre-trained model is also tried with, so that a gain is compared with what guidance gives for free.
    samples: clips shown before and after in the report. batch: clips sampled at once. device: of the driver, which
    scores before and after; in between, the learner scores on its own.
    """

    steps: int = Field(default=16, ge=1)
    seed: int = 90_001
    cfg_scale: float = Field(default=1.0, gt=0)
    guidance: tuple[float, ...] = (1.5, 2.0, 3.0)
    samples: int = Field(default=6, ge=0)
    batch: int = Field(default=64, ge=1)
    device: str = "cpu"


class TrainRecipe(RunConfig):
    """Post-training by Fast-GRPO.

    data: a folder of videos (captions in captions.csv or sidecar .txt files), or a Parquet manifest; without it,
    procedural scenes. heldout_share: of a user's clips, kept out of training. model: the checkpoint to start from, or
    the folder of a release. judge: the classifier that only watches. features: folder or URL of the encoded clips of a
    released model (runs_dir/.cache/features when absent); `prism features` fills it beforehand, on as many machines as
    there are. encoding: how those are made. execution: precision, checkpointing and compilation, of learner and rollout
    alike. lora: train such adapters instead of the whole model.
    """

    seed: int = 0
    data: Path | None = None
    heldout_share: float = Field(default=0.2, gt=0, lt=1)
    model: Path = ASSETS / "embedded.safetensors"
    judge: Path = ASSETS / "judge.safetensors"
    features: str | None = None
    encoding: EncodingConfig = EncodingConfig()
    scenes: ScenesConfig = ScenesConfig()
    planner: PlannerConfig = PlannerConfig()
    rewards: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    execution: ExecutionConfig = ExecutionConfig()
    lora: LoraConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    rollout: RolloutConfig = RolloutConfig()
    buffer: BufferConfig = BufferConfig()
    ray: RayConfig = RayConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class InstrumentConfig(Section):
    """Training of the semantic reward's encoder and of the judge, on clean scenes of two splits of their own."""

    seed: int = 0
    scenes: int = Field(default=400, ge=8)
    steps: int = Field(default=250, ge=1)


class PretrainRecipe(Section):
    """Everything that `prism train` starts from: the flow model, the semantic encoder and the judge.

    out: folder for the three files. cache: folder for the rendered scenes.
    """

    out: Path = ASSETS
    cache: Path = Path("runs/.cache")
    scenes: ScenesConfig = ScenesConfig()
    planner: PlannerConfig = PlannerConfig()
    model: ModelConfig = ModelConfig()
    encoders: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig()
    instruments: InstrumentConfig = InstrumentConfig()


def find(path: Path, what: str) -> Path:
    """An existing file, looked for from the working directory and then from the checkout. Raises PrismError."""
    for candidate in (path, ROOT / path):
        if candidate.exists():
            return candidate.resolve()
    raise PrismError(f"There is no {what} at {path}. Correct the path, or make one with `prism pretrain`.")


def find_model(path: Path | None) -> Path:
    """The checkpoint a user means: a file, a run folder (its result or newest checkpoint), or the shipped one."""
    if path is None:
        return find(ASSETS / "posttrained.safetensors", "model")
    found = find(path, "model")
    if not found.is_dir() or is_release(found):
        return found
    for candidate in (found / "model.safetensors", found / "ema.safetensors", *_checkpoints(found)):
        if candidate.exists():
            return candidate
    raise PrismError(
        f"{path} is a folder without a model; expected a run folder, a checkpoint folder, a release folder or a file."
    )


def _checkpoints(run: Path) -> list[Path]:
    return [folder / "ema.safetensors" for folder in sorted(run.glob("checkpoints/iter-*"), reverse=True)]
