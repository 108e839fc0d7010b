"""`prism generate`: soundtracks for videos of any length and number, each under its untouched picture."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.session import ray_session
from media.video import probe
from pipelines.generate_recipe import GenerateRecipe, resolve
from pipelines.joining import overlap_add
from pipelines.soundtrack import Job, Made, SoundtrackMaker, soundtrack, windows
from settings import PrismError

__all__ = ["generate", "overlap_add", "soundtrack", "windows"]

log = logging.getLogger(__name__)


class GenerateError(PrismError):
    """Some of several videos got no soundtrack; the message lists them with their reasons."""


def generate(
    videos: Sequence[Path],
    caption: str | None,
    out_dir: Path,
    model: Path | None = None,
    seed: int | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    solver: str | None = None,
    recipe: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[Path]:
    """Write NAME.mp4, NAME.wav and NAME.json for each video; returns the videos in their order.

    What is None is taken from the recipe, or from `GenerateRecipe` without one; `overrides` are its `key=value`. The
    sound of a video depends on the recipe, its options and the video alone: neither on the other videos, nor on how
    many are made at once. Raises PrismError when two videos would be written to one name, the error of a single video,
    or, when the others are done, GenerateError for several.
    """
    stems = [video.stem for video in videos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise PrismError(f"Several videos are called {', '.join(twice)}; generate them into different folders.")
    given = {
        "model": None if model is None else str(model),
        "seed": seed,
        "sampler.guidance": guidance,
        "sampler.steps": steps,
        "sampler.solver": solver,
    }
    chosen = resolve(recipe, overrides, given)
    out_dir.mkdir(parents=True, exist_ok=True)
    jobs = [Job(video.resolve(), str(video), caption, out_dir.resolve()) for video in videos]
    made: dict[int, Path] = {}
    failed: dict[int, Exception] = {}
    notes: list[str] = []
    with _progress(len(jobs)) as progress:
        task = progress.add_task("videos", total=len(jobs))
        for place, result in _made(jobs, chosen):
            if isinstance(result, Exception):
                failed[place] = result
            else:
                made[place] = out_dir / result.path.name
                fresh = [note for note in result.notes if note not in notes]
                notes += fresh
                for note in fresh:
                    log.warning(note)
            progress.advance(task)
    if failed:
        _report(videos, failed, out_dir)
    return [made[place] for place in range(len(jobs))]


def _made(jobs: Sequence[Job], recipe: GenerateRecipe) -> Iterator[tuple[int, Made | Exception]]:
    """Place and result of every job, as they come."""
    return _with_actors(jobs, recipe) if recipe.pool.workers else _here(jobs, recipe)


def _here(jobs: Sequence[Job], recipe: GenerateRecipe) -> Iterator[tuple[int, Made | Exception]]:
    maker = SoundtrackMaker.load(recipe)
    for place, job in enumerate(jobs):
        try:
            yield place, maker.make(job)
        except PrismError as error:
            yield place, error


def _with_actors(jobs: Sequence[Job], recipe: GenerateRecipe) -> Iterator[tuple[int, Made | Exception]]:
    from actors.soundtracks import SoundtrackPool

    minutes: dict[int, float] = {}
    for place, job in enumerate(jobs):
        try:
            minutes[place] = probe(job.video).seconds / 60
        except PrismError as error:
            yield place, error
    if not minutes:
        return
    pool = recipe.pool.model_copy(update={"workers": min(recipe.pool.workers, len(minutes))})
    # The number of threads decides the last bits of a sum, so actors take this process'.
    build = partial(SoundtrackMaker.load, recipe, torch.get_num_threads())
    with ray_session(recipe.ray) as session:
        session.require(pool.workers * pool.num_cpus, pool.workers * pool.num_gpus)
        with SoundtrackPool(build, pool) as workers:
            places = list(minutes)
            for outcome in workers.run([jobs[place] for place in places], list(minutes.values())):
                yield places[outcome.place], outcome.error or outcome.result


def _report(videos: Sequence[Path], failed: dict[int, Exception], out_dir: Path) -> None:
    """Raise what went wrong: the error itself when there was one video to make."""
    if len(videos) == 1:
        error = failed[0]
        raise error if isinstance(error, PrismError) else GenerateError(f"{videos[0]}: {error}") from error
    reasons = [f"  {videos[place]}: {_reason(failed[place], videos[place])}" for place in sorted(failed)]
    done = f"The others are in {out_dir}." if len(failed) < len(videos) else "None could be made."
    raise GenerateError("\n".join([f"{len(failed)} of {len(videos)} videos got no soundtrack. {done}", *reasons]))


def _reason(error: Exception, video: Path) -> str:
    return str(error).removeprefix(f"{video.resolve()}: ").removeprefix(f"{video}: ")


def _progress(count: int) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=count < 2 or not console.is_terminal)
