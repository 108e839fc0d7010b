"""Loading folders in Hugging Face layout, without network, with our errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from foundation.errors import CheckpointError
from foundation.flat import require_finite

M = TypeVar("M", bound=PreTrainedModel)


def read_config(folder: str | Path, model_types: tuple[str, ...]) -> PretrainedConfig:
    """The configuration of a model folder. Raises CheckpointError: no such folder, no config.json, another model."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no model folder in Hugging Face layout: it has no config.json.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    if config.model_type not in model_types:
        raise CheckpointError(f"{folder} holds a model of type {config.model_type!r}; expected {model_types[0]!r}.")
    return config


def load_part(
    model_class: type[M], folder: str | Path, config: PretrainedConfig, ignored: tuple[str, ...] = (), **options: Any
) -> M:
    """A frozen model in evaluation mode, every parameter of which is in the folder's weights.

    ignored: beginnings of the names that the file may hold beside. options: of `from_pretrained`.
    Raises CheckpointError: no weights, damaged, missing, unexpected or misshaped keys, NaN.
    """
    options = {"dtype": torch.float32, "local_files_only": True, **options}
    try:
        with quiet():
            loaded: Any = model_class.from_pretrained(
                folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        model, info = loaded
    except Exception as error:  # transformers raises whatever its storage back ends do
        raise CheckpointError(f"The weights in {folder} cannot be loaded: {error}") from error
    problems = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(name for name in info["unexpected_keys"] if not name.startswith(ignored)),
        "other dimensions": sorted(str(entry[0]) for entry in info["mismatched_keys"]),
    }
    listed = [f"{label}: {', '.join(names[:5])}" for label, names in problems.items() if names]
    if listed:
        raise CheckpointError(f"The weights in {folder} do not fit its config.json. {'; '.join(listed)}.")
    require_finite(model.state_dict(), f"Refusing to load {folder}")
    return model.eval().requires_grad_(False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its table of ignored keys; `load_part` reports what matters."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
