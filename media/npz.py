"""The feature files of the released model's own tools: one .npz per clip, and text files that list them.

Layout: FunAudioLLM/ThinkSound, branch prismaudio, data_utils/prismaudio_data_process.py, PrismAudio/data/dataset.py.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from media.features import AUDIO, SYNC, TEXT, TEXT_GLOBAL, VIDEO, VIDEO_GLOBAL
from media.parts import FeatureError

RANKS = {VIDEO: 2, VIDEO_GLOBAL: 1, TEXT: 2, TEXT_GLOBAL: 1, SYNC: 2, AUDIO: 2}
WORDS = ("id", "audio_path", "video_path", "caption_cot")
OPTIONAL = ("audio_path", "video_path", AUDIO, VIDEO_GLOBAL, TEXT_GLOBAL)


def read_split(path: str | Path) -> list[str]:
    """Names of the .npz files that a split lists, one per line. Raises FeatureError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FeatureError(path, f"is no list of .npz names ({error}).") from error
    return [line.strip() for line in lines if line.strip()]


def read_npz(path: str | Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Texts (`WORDS`, "" where absent) and arrays (`RANKS`, those that are there) of one file.

    The official tools store what they do not have, and nothing else, as a pickled None; nothing is unpickled here.
    Raises FeatureError: no such file, not an .npz, fields that are missing or of another shape, NaN.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: _field(file, name, path) for name in (*WORDS, *RANKS) if name in file.files}
    except FileNotFoundError:
        raise FeatureError(path, "no such file, though it is listed; correct the list.") from None
    except (OSError, ValueError, EOFError, BadZipFile, KeyError) as error:
        raise FeatureError(path, f"is damaged or no .npz file ({error}).") from error
    values = {name: value for name, value in found.items() if value is not None}
    lacking = [name for name in (*WORDS, *RANKS) if name not in values and name not in OPTIONAL]
    if lacking:
        raise FeatureError(path, f"lacks {', '.join(lacking)}; expected the fields {', '.join((*WORDS, *RANKS))}.")
    arrays = {name: _ranked(path, name, values[name], rank) for name, rank in RANKS.items() if name in values}
    return {name: str(values.get(name, "")) for name in WORDS}, arrays


def write_npz(path: str | Path, words: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one file that the official loader reads. It appears only when complete."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    fields = {
        **{name: np.array(words.get(name, "")) for name in WORDS},
        **{n: np.float32(a) for n, a in arrays.items()},
    }
    try:
        with open(partial, "wb") as file:
            np.savez(file, **fields)  # pyright: ignore[reportArgumentType]
        os.replace(partial, path)
    except OSError as error:
        raise FeatureError(path, f"cannot be written ({error}); check the folder and the disk.") from error
    finally:
        partial.unlink(missing_ok=True)


def _field(file: np.lib.npyio.NpzFile, name: str, path: str | Path) -> np.ndarray | None:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        if name not in OPTIONAL:
            raise FeatureError(path, f"holds {name} as a pickle, which is not opened; write it as an array.") from None
        return None


def _ranked(path: str | Path, name: str, array: np.ndarray, rank: int) -> np.ndarray:
    """Without the leading axes of length 1 that a batch of one clip leaves."""
    while array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    if array.ndim != rank or array.dtype.kind not in "fiu" or not array.size:
        raise FeatureError(path, f"holds {name} as {array.dtype} {array.shape}; expected {rank} axes of numbers.")
    if not np.isfinite(array).all():
        raise FeatureError(path, f"holds NaN or infinity in {name}.")
    return array
