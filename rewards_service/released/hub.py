"""Models and tokenizers that packages ask for by name, out of a local Hugging Face cache, without a network."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rewards_service.errors import RewardError


def snapshot(folder: str | Path, name: str) -> Path:
    """The folder of a model's files in a cache, which is one itself or has it in `hub/`, as $HF_HOME does.

    Raises RewardError when it is not there.
    """
    place = _cache(folder) / f"models--{name.replace('/', '--')}"
    revision = place / "refs" / "main"
    if revision.is_file() and (found := place / "snapshots" / revision.read_text().strip()).is_dir():
        return found
    raise RewardError(
        f"The Hugging Face cache {folder} has no {name} ({place} with refs/main and its snapshot); fill it on a "
        f"machine with a network: HF_HOME={folder} hf download {name}."
    )


def use(folder: str | Path, names: Sequence[str]) -> None:
    """Let this process find models by name in a cache only, which must have all of `names`.

    Nothing is changed where the folder is empty: then it is the machine's own cache, and the network. Raises
    RewardError for what the cache lacks, and when the process has settled on another one: that is read once, at the
    import of huggingface_hub, so a scorer with a hub of its own needs a replica of its own.
    """
    if not str(folder):
        return
    for name in names:
        snapshot(folder, name)
    cache = str(_cache(folder).resolve())
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None and not (cache == constants.HF_HUB_CACHE and constants.HF_HUB_OFFLINE):
        raise RewardError(
            f"This process already uses the Hugging Face cache {constants.HF_HUB_CACHE}; {folder} must be given "
            "before anything imports huggingface_hub, as in a replica of its own."
        )
    os.environ["HF_HUB_CACHE"] = cache
    os.environ["HF_HUB_OFFLINE"] = "1"


def _cache(folder: str | Path) -> Path:
    folder = Path(folder)
    return folder / "hub" if (folder / "hub").is_dir() else folder
