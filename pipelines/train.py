"""`prism train`: from a recipe to a better model, through the distributed path."""

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from actors.coordinator import RunPlan
from actors.generator import load_generator
from actors.launch import ActorNames, RunActors, launch
from actors.messages import Prompt
from cluster.session import ray_session
from evaluation.heldout import HeldOut
from evaluation.live import LiveView
from evaluation.report import write_report
from foundation.build import Foundation, load_foundation, load_model
from foundation.execution import execute
from pipelines import run_folder
from pipelines.conditions import Conditioning, feature_store
from pipelines.data import TrainingData, training_data
from pipelines.heldout import HeldOutSet
from pipelines.monitor import Monitor, measured
from pipelines.recipe import TrainRecipe, find
from pipelines.run_folder import RunFolder
from pipelines.scoring import completed
from pipelines.summary import write_summary
from pipelines.whereabouts import announced
from rewards_service import backends, remote
from rewards_service.judge import Judge
from settings.load import load
from trainer import checkpoints
from trainer.fit import fit
from trainer.loop import LoopConfig, Outcome


@dataclass
class Stopwatch:
    """Wall seconds at the driver, by stage."""

    began: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.began


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a clean end with a checkpoint; a second one interrupts at once."""

    def __init__(self, console: Console):
        self.requested = False
        self._console = console

    def __call__(self) -> bool:
        """Whether the run was asked to stop."""
        return self.requested

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handle signals inside the block."""
        held = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._console.print("Stopping after this iteration, with a checkpoint. Ctrl-C again stops at once.")


def train(
    recipe_path: Path, overrides: Sequence[str], resume: bool = False, console: Console | None = None
) -> RunFolder:
    """Run a recipe, or continue the run of its name (else the latest); returns the run's folder.

    A resumed run uses the recipe it was started with; only `learner.iterations` of the one given now applies.
    Raises PrismError in its many forms.
    """
    console = console or Console()
    watch = Stopwatch()
    recipe = load(TrainRecipe, recipe_path, overrides)
    find(recipe.model, "model")
    if resume:
        folder = run_folder.existing(recipe)
        recipe = run_folder.continued(folder, recipe)
    else:
        folder = run_folder.create(recipe)
    console.print(f"Run folder: {folder.path}", highlight=False, soft_wrap=True)
    with StopRequest(console).listening() as stop:
        _run(recipe, folder, resume, stop, console, watch)
    return folder


def _run(
    recipe: TrainRecipe, folder: RunFolder, resume: bool, stop: StopRequest, console: Console, watch: Stopwatch
) -> None:
    model_path = find(recipe.model, "model")
    recipe = recipe.model_copy(update={"rewards": completed(recipe, model_path)})
    # Ray sets handlers of its own when it starts, so ours are set again. Whatever fails, the rewards end with the run.
    with ray_session(recipe.ray) as session, stop.listening(), ExitStack() as ending:
        with watch.stage("setup"):
            session.require(_cpus(recipe), _gpus(recipe))
            # A namespace of the run's own: several runs can share a cluster.
            names = ActorNames(folder.name, f"{session.namespace}-{folder.name}")
            # Held until the end, since named actors live as long as somebody holds their handles; they start while
            # the clips are prepared.
            rewards = backends.launch(recipe.rewards, names.namespace)
            ending.callback(rewards.stop)
            torch.set_num_threads(recipe.learner.torch_threads)
            foundation = load_foundation(model_path, recipe.evaluation.device, recipe.encoding)
            execute(foundation.flow, recipe.execution)
            data = training_data(recipe, foundation, console)
            for note in [*data.notes, *(f"Left out {r.path}: {r.reason}" for r in data.rejected)]:
                console.print(f"[yellow]note[/yellow] {note}", highlight=False)
            judge = Judge.load(find(recipe.judge, "judge"))
            if remote.needs_replicas(recipe.rewards):
                rewards.await_ready()  # the held-out scores ask them too
            held, found = _encoded(recipe, foundation, data, judge, names.namespace, console)
            for note in held.notes:
                console.print(f"[yellow]note[/yellow] {note}", highlight=False)
            monitor = Monitor(held, folder.path)
            before = _before(monitor, folder, data, resume)
            rewards.await_ready()
            actors = _launch(recipe, folder, names, str(model_path), found)
        console.print(f"Ray dashboard: {session.dashboard_url or 'off'}", highlight=False, soft_wrap=True)
        with (
            announced(folder, names.namespace, names.coordinator),
            watch.stage("rl"),
            LiveView(recipe.learner.iterations, session.dashboard_url, console=console) as view,
        ):
            outcome = fit(_loop(recipe, folder, names, str(model_path), monitor, view, stop))
        books = _books(actors, recipe)
        actors.stop()
        _finish(recipe, folder, outcome, books, monitor, before, data, watch, console)


def _encoded(
    recipe: TrainRecipe, foundation: Foundation, data: TrainingData, judge: Judge, namespace: str, console: Console
) -> tuple[HeldOutSet, list[Prompt]]:
    """The held-out clips and the prompts with their conditions; encoders that took memory are gone afterwards."""
    conditioning = Conditioning(foundation, recipe.planner.template, feature_store(recipe))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        sizes = {"held-out clips": len(data.heldout), "prompts": len(data.prompts)}
        tasks = [progress.add_task(f"encode {name}", total=size) for name, size in sizes.items()]
        counts = [partial(_count, progress, task) for task in tasks]
        scorers, judges = remote.scorers(recipe.rewards, namespace), remote.judges(recipe.rewards, namespace)
        held = HeldOutSet(foundation, data.heldout, scorers, recipe.evaluation, judge, conditioning, counts[0], judges)
        found = conditioning.prompts(data.prompts, counts[1])
    conditioning.release_memory()
    return held, found


def _count(progress: Progress, task: TaskID, done: int) -> None:
    progress.update(task, completed=done)


def _before(monitor: Monitor, folder: RunFolder, data: TrainingData, resume: bool) -> dict[str, Any]:
    """Scores of the pre-trained model, plain and with guidance, measured once per run."""
    if resume and folder.before.exists():
        return json.loads(folder.before.read_text(encoding="utf-8"))
    held = monitor.held
    plain = held.score(detail=True)
    monitor.record(plain, 0)
    held.save_samples(folder.path, "before", plain, data.heldout)
    measures = held.measures(plain)
    guided = {f"{scale:g}": held.score(guidance=scale).summary() for scale in held.config.guidance}
    found = {
        "scores": plain.summary(),
        "guided": guided,
        "measures": measures.as_dict() if measures else None,
        "monitor": {"before": measured(plain), "unwatched": held.unwatched},
        "clips": list(plain.clip_ids),
        "scenes": _columns(plain),
    }
    folder.before.write_text(json.dumps(found), encoding="utf-8")
    return found


def _columns(scored: HeldOut) -> dict[str, list[float]]:
    return {name: [float(v) for v in values] for name, values in {**scored.scenes, "total": scored.total}.items()}


def _launch(recipe: TrainRecipe, folder: RunFolder, names: ActorNames, model: str, found: list[Any]) -> RunActors:
    plan = RunPlan(
        seed=recipe.seed,
        iterations=recipe.learner.iterations,
        algorithm=recipe.algorithm,
        rollout=recipe.rollout,
        weights=recipe.rewards.weights,
        missing=recipe.rewards.missing,
        max_missing_share=recipe.rewards.max_missing_share,
        rpc_deadline_s=recipe.buffer.rpc_deadline_s,
    )
    build = partial(
        load_generator,
        model,
        recipe.algorithm,
        "cuda" if recipe.rollout.num_gpus else "cpu",
        recipe.rollout.torch_threads,
        recipe.execution,
        recipe.lora,
        recipe.rollout.samples_per_decode,
    )
    saved = checkpoints.latest(folder.path / "checkpoints")
    base = checkpoints.read_state(saved).totals.ledger() if saved else None
    client = partial(backends.connect, recipe.rewards, names.namespace)
    return launch(names, plan, found, build, client, recipe.buffer, base)


def _loop(
    recipe: TrainRecipe,
    folder: RunFolder,
    names: ActorNames,
    model: str,
    monitor: Monitor,
    view: LiveView,
    stop: StopRequest,
) -> LoopConfig:
    return LoopConfig(
        seed=recipe.seed,
        model_path=model,
        run_dir=str(folder.path),
        names=names,
        algorithm=recipe.algorithm,
        optimiser=recipe.optimiser,
        learner=recipe.learner,
        reward_weights=recipe.rewards.weights,
        max_staleness=recipe.rollout.max_staleness,
        execution=recipe.execution,
        lora=recipe.lora,
        evaluate=monitor,
        on_iteration=view.update,
        stop=stop,
    )


def _books(actors: RunActors, recipe: TrainRecipe) -> dict[str, Any]:
    """The buffer's ledger and the coordinator's clocks at the end of a run."""
    deadline = recipe.buffer.rpc_deadline_s
    ledger, status = ray.get([actors.buffer.ledger.remote(), actors.coordinator.status.remote()], timeout=deadline)
    return {"groups": ledger, "seconds": status["seconds"], "restarts": status["restarts"]}


def _finish(
    recipe: TrainRecipe,
    folder: RunFolder,
    outcome: Outcome,
    books: dict[str, Any],
    monitor: Monitor,
    before: dict[str, Any],
    data: TrainingData,
    watch: Stopwatch,
    console: Console,
) -> None:
    run_folder.publish(Path(outcome.checkpoint) / "ema.safetensors", folder.model)
    trained = execute(load_model(folder.model, recipe.evaluation.device).model, recipe.execution)
    after = monitor.held.score(trained, detail=True)
    monitor.held.save_samples(folder.path, "after", after, data.heldout)
    measures, watched = monitor.held.measures(after), monitor.summary(before, after, outcome.version)
    write_summary(recipe, folder, outcome, books, before, after, measures, watched, watch.stages, watch.total, console)
    console.print(f"Report: {write_report(folder.path)}", highlight=False, soft_wrap=True)
    if outcome.stopped:
        console.print(
            f"Stopped at iteration {outcome.version}; continue with: --resume name={folder.name}", soft_wrap=True
        )


def _cpus(recipe: TrainRecipe) -> float:
    rewards = sum(s.num_cpus * s.replicas for s in recipe.rewards.deployed.values())
    return rewards + recipe.rollout.workers * recipe.rollout.num_cpus + recipe.learner.num_workers


def _gpus(recipe: TrainRecipe) -> float:
    rewards = sum(s.num_gpus * s.replicas for s in recipe.rewards.deployed.values())
    learners = recipe.learner.num_workers * recipe.learner.gpus_per_worker if recipe.learner.use_gpu else 0
    return rewards + recipe.rollout.workers * recipe.rollout.num_gpus + learners
