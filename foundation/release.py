"""The folder of a released model: which files belong to it and what each one is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from foundation.errors import CheckpointError
from foundation.flat import SUFFIXES
from settings import Section

MODEL = ("prismaudio.ckpt", "prismaudio.safetensors")
VAE = ("vae.ckpt", "vae.safetensors")
SYNCHFORMER = ("synchformer_state_dict.pth", "synchformer_state_dict.safetensors")
DESCRIPTIONS = {
    "vae": f"the audio autoencoder: {' or '.join(VAE)}",
    "synchformer": f"Synchformer's visual extractor: {' or '.join(SYNCHFORMER)}",
    "videoprism": "the video encoder: a folder videoprism*/ in Hugging Face layout",
    "t5gemma": "the text encoder: a folder t5gemma*/ in Hugging Face layout",
}


class EncodingConfig(Section):
    """How the encoders of a release are run; features made otherwise count as another encoder's.

    weights: type of their computation. max_tokens: longer texts are cut; null keeps them whole, as the released code.
    """

    weights: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens: PositiveInt | None = None


@dataclass(frozen=True)
class Release:
    """Paths of a release; None for what is not there. The VAE may also be inside `model`."""

    folder: Path
    model: Path
    vae: Path | None = None
    synchformer: Path | None = None
    videoprism: Path | None = None
    t5gemma: Path | None = None

    @classmethod
    def find(cls, path: str | Path) -> "Release":
        """The release of a folder, or of the model file inside it. Raises CheckpointError when no model is there."""
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        model = _first_file(folder, MODEL) if path.is_dir() else path
        if model is None:
            raise CheckpointError(
                f"{path} holds no released model: expected {' or '.join(MODEL)} in it, found {_content(folder)}."
            )
        if not model.is_file():
            raise CheckpointError(f"There is no release at {path}: expected a folder with {MODEL[0]}, or that file.")
        if model.suffix not in SUFFIXES:
            raise CheckpointError(f"{model} is no model file; expected one ending in {', '.join(SUFFIXES)}.")
        return cls(
            folder,
            model,
            _first_file(folder, VAE),
            _first_file(folder, SYNCHFORMER),
            _first_folder(folder, "videoprism"),
            _first_folder(folder, "t5gemma"),
        )

    def require(self, *parts: str) -> None:
        """Raise CheckpointError naming each of the parts ("vae", "synchformer", ...) that is not there."""
        missing = [f"{part} ({DESCRIPTIONS[part]})" for part in parts if getattr(self, part) is None]
        if missing:
            raise CheckpointError(
                f"The release in {self.folder} lacks {'; '.join(missing)}. Put them beside the model."
            )


def is_release(path: str | Path) -> bool:
    """Whether a path is a release folder, or the model file of one by its name."""
    path = Path(path)
    return _first_file(path, MODEL) is not None if path.is_dir() else path.name in MODEL and path.is_file()


def _first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _first_folder(folder: Path, start: str) -> Path | None:
    """A model's folder by the start of its name; the first in alphabetical order that has a config.json, if any has."""
    found = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower().startswith(start))
    return next((p for p in found if (p / "config.json").is_file()), found[0] if found else None)


def _content(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
