"""`prism train --plan`: what a recipe needs of every device, before anything starts."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from foundation.build import load_codec, load_model
from foundation.lora import inject
from foundation.model import FlowModel
from pipelines.recipe import TrainRecipe, find
from settings.load import load
from trainer.memory import Lengths, Part, estimate, peak

MIB, GIB = 2**20, 2**30
CONTEXT = "CUDA context, each process"
CONTEXT_BYTES = GIB // 2


def plan_memory(recipe_path: Path, overrides: Sequence[str], console: Console) -> dict[str, int]:
    """Print the memory of one learner and one rollout worker, part by part; returns {role: peak bytes}.

    The clips are taken to be as long as the released model's, 9 s with 256 text tokens, or as the embedded one's.
    Raises PrismError.
    """
    recipe = load(TrainRecipe, recipe_path, overrides)
    path = find(recipe.model, "model")
    loaded, codec = load_model(path), load_codec(path)
    with torch.device("meta"):
        flow = FlowModel(loaded.model.config)
    if recipe.lora is not None:
        inject(flow, recipe.lora)
    seconds = loaded.extra.get("seconds")
    lengths = Lengths() if seconds is None else Lengths(round(seconds * codec.sample_rate / codec.hop), 8, 16, 64)
    parts = estimate(
        flow,
        codec,
        recipe.algorithm,
        lengths,
        recipe.execution.model_copy(update={"compile": False}),
        recipe.learner.reference,
        max(1, recipe.learner.num_workers),
        recipe.rollout.prompts_per_task,
        recipe.rollout.samples_per_decode,
    )
    gpu = recipe.learner.use_gpu or recipe.rollout.num_gpus > 0
    console.print(_table(parts, gpu))
    peaks = {role: peak(parts, role) + (CONTEXT_BYTES if gpu else 0) for role in ("learner", "rollout")}
    console.print(_verdict(recipe, peaks), highlight=False)
    return peaks


def _table(parts: Sequence[Part], gpu: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("process", "what", "when"):
        table.add_column(name)
    table.add_column("MiB", justify="right")
    for role in ("learner", "rollout"):
        for part in parts:
            if part.role == role:
                table.add_row(role, part.part, part.phase or "always", f"{part.bytes / MIB:,.0f}")
        if gpu:
            table.add_row(role, CONTEXT, "always", f"{CONTEXT_BYTES / MIB:,.0f}")
        total = peak(parts, role) + (CONTEXT_BYTES if gpu else 0)
        table.add_row(f"[bold]{role}[/bold]", "[bold]at most, together[/bold]", "", f"[bold]{total / MIB:,.0f}[/bold]")
        table.add_section()
    return table


def _verdict(recipe: TrainRecipe, peaks: dict[str, int]) -> str:
    learner, rollout = recipe.learner, recipe.rollout
    counts = f"{max(1, learner.num_workers)} learner process(es), {rollout.workers} rollout worker(s)"
    if not (learner.use_gpu or rollout.num_gpus):
        total = peaks["learner"] * max(1, learner.num_workers) + peaks["rollout"] * rollout.workers
        return f"{counts}: {total / GIB:.1f} GiB of main memory, beside Python, scorers and clips."
    if learner.use_gpu and 0 < rollout.num_gpus <= 1 - learner.gpus_per_worker + 1e-9:
        together = sum(peaks.values())
        line = f"{counts}; one of each shares a GPU: {together / GIB:.1f} GiB, beside scorers."
    else:
        together = max(peaks.values())
        line = f"{counts}, each on a GPU of its own: at most {together / GIB:.1f} GiB."
    if torch.cuda.is_available():
        held = torch.cuda.get_device_properties(0).total_memory
        line += f" The GPU here has {held / GIB:.1f} GiB: {'it fits' if together < held else 'it does not fit'}."
    return line
