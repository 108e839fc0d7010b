"""`prism finetune`: supervised flow matching of a released model on features that `prism features` computed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from rich.console import Console

from cluster.config import RayConfig
from evaluation.plot_losses import plot_losses
from foundation import checkpoint
from foundation.build import RELEASE, load_model
from foundation.config import ModelConfig
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig
from foundation.model import FlowModel, initialise_unit_gain
from foundation.release import Release
from media.features import FeatureError, FeatureStore
from media.stretches import read_stretches
from pipelines import run_folder
from pipelines.recipe import find_model
from pipelines.run_folder import RunConfig, RunFolder
from pipelines.stage import StepsView, ray_for
from pipelines.train import StopRequest, Stopwatch
from settings import PrismError
from settings.load import load
from trainer.checkpoints import EMA
from trainer.config import LearnerConfig
from trainer.examples import EncoderNames, Example, Text, find_examples, read_examples, write_examples
from trainer.feature_batches import LoaderConfig
from trainer.flow_matching import FlowMatchingConfig
from trainer.loop import Outcome
from trainer.supervised import EXAMPLES, SupervisedLoop, ValidationConfig, fit

START, LEFT_OUT = "start.safetensors", "left_out.jsonl"


class SuperviseRecipe(RunConfig):
    """Supervised training of the released model's DiT and conditioners.

    init: start from the weights of `model` (a release, a
    checkpoint or a run), or from new ones of the dimensions `dims`; then `model` may name the release whose encoders
    and codec made the features. features: folder or URL of the feature store. text: condition on the features of the
    plans or of the captions. heldout_share: of the clips, where the store's table has no split but "train".
    without_picture: also train on sounds that have no video features.
    """

    seed: int = 0
    init: Literal["released", "scratch"] = "released"
    model: Path | None = None
    dims: ModelConfig = ModelConfig.released()
    features: str = "runs/.cache/features"
    text: Text = "plan"
    heldout_share: float = Field(default=0.01, ge=0, lt=1)
    without_picture: bool = False
    encoders: EncoderNames = EncoderNames()
    loader: LoaderConfig = LoaderConfig()
    training: FlowMatchingConfig = FlowMatchingConfig()
    execution: ExecutionConfig = ExecutionConfig()
    lora: LoraConfig | None = None
    validation: ValidationConfig = ValidationConfig()
    learner: LearnerConfig = LearnerConfig()
    ray: RayConfig = RayConfig()


def supervise(
    recipe_path: Path, overrides: Sequence[str], resume: bool = False, console: Console | None = None
) -> RunFolder:
    """Run a recipe, or continue the run of its name (else the latest); returns the run's folder.

    A resumed run uses the recipe and the examples it was started with; only `learner.iterations` of the one given now
    applies. Raises PrismError in its many forms.
    """
    console = console or Console()
    watch = Stopwatch()
    recipe = load(SuperviseRecipe, recipe_path, overrides)
    if resume:
        folder = run_folder.existing(recipe)
        recipe = run_folder.continued(folder, recipe)
    else:
        recipe = _absolute(recipe)
        folder = run_folder.create(recipe)
    console.print(f"Run folder: {folder.path}", highlight=False, soft_wrap=True)
    torch.set_num_threads(recipe.learner.torch_threads)
    # The list is written last: a run that has it is ready to go on.
    if not (folder.path / EXAMPLES).exists():
        _prepare(recipe, folder, console)
    view = StepsView("flow matching", recipe.learner.iterations, console)
    with ray_for(recipe.learner, recipe.ray), StopRequest(console).listening() as stop, view:
        loop = _loop(recipe, folder)
        outcome = fit(replace(loop, on_step=_Found(view).update, stop=stop))
    _finish(recipe, folder, loop, outcome, watch.total, console)
    return folder


def _absolute(recipe: SuperviseRecipe) -> SuperviseRecipe:
    """The recipe with what workers elsewhere have to find: absolute paths and a model that is there."""
    if recipe.init == "released" and recipe.model is None:
        raise PrismError("Name the release, checkpoint or run to start from with model=PATH, or set init=scratch.")
    model = None if recipe.model is None else find_model(recipe.model)
    features = recipe.features if "://" in recipe.features else str(Path(recipe.features).resolve())
    return recipe.model_copy(update={"model": model, "features": features})


def _prepare(recipe: SuperviseRecipe, folder: RunFolder, console: Console) -> None:
    """The list of examples and, for new weights, the model to start from. Raises FeatureError, CheckpointError."""
    store = FeatureStore(recipe.features)
    stretches = read_stretches(recipe.features)
    if not stretches:
        raise FeatureError(recipe.features, "has no table of stretches; fill the store with `prism features` first.")
    encoders = recipe.encoders.resolve(store)
    found = find_examples(store, encoders, stretches, recipe.text, recipe.heldout_share, recipe.without_picture)
    lines = [json.dumps({"clip": clip, "reason": reason}) + "\n" for clip, reason in found.left_out]
    (folder.path / LEFT_OUT).write_text("".join(lines), encoding="utf-8")
    if lines:
        console.print(
            f"[yellow]note[/yellow] {len(lines)} of {len(stretches)} stretches are left out, see {LEFT_OUT}: "
            f"{found.left_out[0][1]}",
            highlight=False,
        )
    if len(lines) > recipe.loader.max_skipped_share * len(stretches):
        raise FeatureError(
            recipe.features,
            f"lacks features of {len(lines)} of {len(stretches)} stretches, more than loader.max_skipped_share "
            f"({recipe.loader.max_skipped_share:g}) allows: {found.left_out[0][1]}. Run `prism features` again, or "
            "allow more.",
        )
    if all(example.heldout for example in found.examples):
        raise FeatureError(recipe.features, "holds no example to train on; see the splits of its table of stretches.")
    if recipe.init == "scratch":
        _new_model(recipe, folder)
    write_examples(folder.path / EXAMPLES, found.examples)


def _new_model(recipe: SuperviseRecipe, folder: RunFolder) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        flow = FlowModel(recipe.dims)
        initialise_unit_gain(flow, torch.Generator().manual_seed(recipe.seed))
    extra = {} if recipe.model is None else {RELEASE: str(Release.find(recipe.model).folder)}
    checkpoint.save(folder.path / START, flow, extra)


def _loop(recipe: SuperviseRecipe, folder: RunFolder) -> SupervisedLoop:
    model = folder.path / START if recipe.init == "scratch" else recipe.model
    return SupervisedLoop(
        seed=recipe.seed,
        model_path=str(model),
        run_dir=str(folder.path),
        features=recipe.features,
        encoders=recipe.encoders.resolve(FeatureStore(recipe.features)),
        training=recipe.training,
        learner=recipe.learner,
        execution=recipe.execution,
        lora=recipe.lora,
        loader=recipe.loader,
        validation=recipe.validation,
    )


class _Found:
    """What a step found, in a line beside the bar."""

    def __init__(self, steps: StepsView):
        self._steps = steps
        self._validation = ""

    def update(self, record: dict[str, Any]) -> None:
        """Show one step."""
        if "validation" in record:
            self._validation = f" validation {record['validation']['loss']:.4f}"
        rate = record["examples"] / max(sum(record["seconds"].values()), 1e-9)
        loss = "" if record["loss"] is None else f"loss {record['loss']:.4f}"
        found = f"{loss}{self._validation} lr {record['lr']:.2e} {rate:.0f} examples/s"
        self._steps.show(record["version"], found)


def _finish(
    recipe: SuperviseRecipe, folder: RunFolder, loop: SupervisedLoop, outcome: Outcome, seconds: float, console: Console
) -> None:
    run_folder.publish(Path(outcome.checkpoint) / EMA, folder.model)
    made = load_model(folder.model)
    records = loop.journal.records()
    examples = read_examples(folder.path / EXAMPLES)
    summary = {
        "name": folder.name,
        "steps": outcome.version,
        "stopped": outcome.stopped,
        "seconds": seconds,
        "examples": dict(Counter("heldout" if example.heldout else "training" for example in examples)),
        "seen": outcome.totals.samples,
        "unreadable": outcome.totals.dropped.get("unreadable", 0),
        "left_out": len((folder.path / LEFT_OUT).read_text(encoding="utf-8").splitlines()),
        "loss": _ends([r["loss"] for r in records if r["loss"] is not None]),
        "validation": _ends([r["validation"]["loss"] for r in records if "validation" in r]),
        "parameters": sum(p.numel() for p in made.model.parameters()),
    }
    folder.summary.write_text(json.dumps(summary, indent=2), encoding="utf-8")
    plot_losses(records, folder.path / "losses.png", folder.name)
    (folder.path / "report.md").write_text(_report(recipe, summary, examples), encoding="utf-8")
    console.print(f"Report: {folder.path / 'report.md'}", highlight=False, soft_wrap=True)
    if outcome.stopped:
        console.print(f"Stopped at step {outcome.version}; continue with: --resume name={folder.name}", soft_wrap=True)


def _ends(values: Sequence[float], over: int = 50) -> dict[str, float] | None:
    """Means over the first and the last tenth, at most `over` values each."""
    if not values:
        return None
    width = max(1, min(over, len(values) // 10))
    return {"first": sum(values[:width]) / width, "last": sum(values[-width:]) / width}


def _report(recipe: SuperviseRecipe, summary: dict[str, Any], examples: Sequence[Example]) -> str:
    def ends(name: str) -> str:
        found = summary[name]
        return "not measured" if found is None else f"{found['first']:.4f} → {found['last']:.4f}"

    training = recipe.training
    what = f"adapters of rank {recipe.lora.rank}" if recipe.lora else "the whole model"
    rows = {
        "start": "new weights" if recipe.init == "scratch" else recipe.model,
        "trained": f"{what}, {summary['parameters'] / 1e6:.1f} M parameters in all",
        "text": f"{recipe.text}s, {sum(e.tokens for e in examples) / max(len(examples), 1):.0f} tokens on average",
        "steps": f"{summary['steps']} of {recipe.learner.iterations}, batch {training.batch}",
        "examples": ", ".join(f"{count} {kind}" for kind, count in summary["examples"].items()),
        "left out, unreadable": f"{summary['left_out']}, {summary['unreadable']}",
        "training loss": ends("loss"),
        "validation loss, averaged weights": ends("validation"),
        "wall time": f"{summary['seconds']:.0f} s",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"# {summary['name']}\n\n| | |\n|---|---|\n{table}\n\n![losses](losses.png)\n"
