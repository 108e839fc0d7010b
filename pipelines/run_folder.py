"""Run folders: a new one per run, the newest linked as `latest`, never one over another."""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from settings import PrismError, Section
from settings.load import dump, load
from trainer.config import LearnerConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunConfig(Section):
    """What every recipe that makes a run folder has.

    name: of the run folder; made from the time when absent. runs_dir: where run folders are. learner: the loop.
    """

    name: str | None = None
    runs_dir: Path = Path("runs")
    learner: LearnerConfig = LearnerConfig()


R = TypeVar("R", bound=RunConfig)


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The fully resolved recipe."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The averaged weights the run ended with."""
        return self.path / "model.safetensors"

    @property
    def summary(self) -> Path:
        """The numbers of the finished run."""
        return self.path / "summary.json"

    @property
    def before(self) -> Path:
        """Held-out scores before training, kept so that a resumed run need not measure them again."""
        return self.path / "before.json"

    @property
    def ray(self) -> Path:
        """Where the run is going, while it is (`pipelines.whereabouts`)."""
        return self.path / "ray.json"


def create(recipe: RunConfig) -> RunFolder:
    """A new folder with the resolved recipe in it. Raises PrismError for a bad or taken name, or no right to write."""
    name = time.strftime("%Y%m%d-%H%M%S") if recipe.name is None else recipe.name
    path = _checked(recipe, name)
    for attempt in range(2, 100):
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            if recipe.name is not None:
                raise PrismError(
                    f"The run {path} exists already. Choose another name=..., continue it with --resume, or remove the "
                    "folder."
                ) from None
            path = path.with_name(f"{name}-{attempt}")
        except OSError as error:
            raise PrismError(
                f"Cannot make the run folder {path}: {error.strerror}. Choose another runs_dir."
            ) from error
    folder = RunFolder(path)
    folder.config.write_text(dump(recipe.model_copy(update={"name": folder.name})), encoding="utf-8")
    _link(path)
    return folder


def existing(recipe: RunConfig) -> RunFolder:
    """The folder of the run to resume: the one named, else the latest. Raises PrismError when there is none."""
    root = runs_root(recipe)
    path = _checked(recipe, recipe.name) if recipe.name else (root / "latest").resolve()
    if not (path / "config.yaml").is_file():
        raise PrismError(f"There is no run to resume at {path}. Name one with name=..., or start without --resume.")
    return RunFolder(path)


def continued(folder: RunFolder, recipe: R) -> R:
    """The recipe that a run was started with; of the one given now, only the number of iterations counts."""
    started = load(type(recipe), folder.config)
    learner = started.learner.model_copy(update={"iterations": recipe.learner.iterations})
    return started.model_copy(update={"learner": learner})


def runs_root(recipe: RunConfig) -> Path:
    """The absolute folder of all runs; actors on other processes need absolute paths."""
    return Path(os.path.abspath(recipe.runs_dir))


def cache(recipe: RunConfig) -> Path:
    """Folder of what is the same for all runs: rendered scenes and plans."""
    return runs_root(recipe) / ".cache"


def _checked(recipe: RunConfig, name: str) -> Path:
    if not NAME.fullmatch(name) or name == "latest":
        raise PrismError(f"{name!r} is no name for a run; use letters, digits, '.', '_' and '-', and not 'latest'.")
    return runs_root(recipe) / name


def _link(path: Path) -> None:
    """Point runs/latest at a run, atomically."""
    temporary = path.parent / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.name)
    os.replace(temporary, path.parent / "latest")


def publish(source: Path, target: Path) -> None:
    """Copy a finished file into place, whole or not at all."""
    partial = target.with_suffix(".partial")
    shutil.copyfile(source, partial)
    os.replace(partial, target)
