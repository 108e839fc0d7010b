"""torchaudio and torchvision of PyPI are linked to CUDA; here their Python parts work with a torch that is not.

Their wheels hold libraries that need libtorch_cuda and libcudart. Beside a CPU build of torch, importing
torchaudio ends in an OSError and importing torchvision in "operator torchvision::nms does not exist", although most of
what both do (resampling, mel filters, image transforms) is Python over torch. Wheels that fit are on another index,
which not every machine reaches.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

EXTENSION = "torchaudio._extension"
OPERATORS = ("nms", "qnms")
"""Those of torchvision whose schemas its Python code asks for at import."""
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LOG = logging.getLogger(__name__)
_declared: list[torch.library.Library] = []  # what they declare lives as long as they do


def tolerate() -> list[str]:
    """Make both packages importable where only their compiled parts do not load; say what was stubbed, and log it.

    Call it before the first import of either, or of a package that imports them. What needs a compiled part (forced
    alignment, non-maximum suppression) then raises when it is called. Nothing is done, and the list is empty, where
    torch has CUDA or ROCm, where a package is absent or loads as it is, and when there is nothing left to do.
    """
    if torch.version.cuda is not None or torch.version.hip is not None:
        return []
    done = []
    if EXTENSION not in sys.modules and "torchaudio" not in sys.modules and _broken("torchaudio", "lib/*torchaudio*"):
        sys.modules[EXTENSION] = _extension()
        done.append(f"{EXTENSION} is replaced by a stub without compiled functions")
    if not _declared and "torchvision" not in sys.modules and _broken("torchvision", "_C*"):
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(name + _SCHEMA)
        _declared.append(library)
        done.append("torchvision::nms and torchvision::qnms are declared without a kernel")
    for what in done:
        _LOG.warning("CUDA-linked wheel beside a CPU build of torch: %s.", what)
    return done


def _broken(package: str, libraries: str) -> bool:
    """Whether an installed package has a compiled part that cannot be loaded."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for file in (file for folder in folders for file in folder.glob(libraries + ".so")):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            return True
    return False


def _extension() -> ModuleType:
    stub: Any = ModuleType(EXTENSION)
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._IS_ALIGN_AVAILABLE = False
    stub._check_cuda_version = lambda: None
    stub.fail_if_no_align = _refused
    return stub


def _refused(function: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"torchaudio's {function.__name__} needs its compiled part, which does not load beside this CPU build of "
            "torch; install the torchaudio wheel that fits it."
        )

    return refuse
