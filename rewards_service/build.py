"""From what a recipe says of a dimension to its scorer. A new one needs no entry here: recipes may name its class."""

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards_service.config import RewardConfig, ScorerConfig
from rewards_service.environments import Environment
from rewards_service.errors import RewardConfigError
from rewards_service.scores import Scorer

SCORERS = {
    # Embedded, without released weights; also what a dimension of the same name has by default.
    "semantic": "rewards_service.semantic:SemanticScorer",
    "temporal": "rewards_service.temporal:TemporalScorer",
    "aesthetic": "rewards_service.aesthetic:AestheticScorer",
    "spatial": "rewards_service.spatial:SpatialScorer",
    # Against the reference clip's own sound, without weights.
    "onsets": "rewards_service.onsets:OnsetScorer",
    # With released weights.
    "ms_clap": "rewards_service.released.ms_clap:MsClapScorer",
    "laion_clap": "rewards_service.released.laion_clap:LaionClapScorer",
    "laion_clap_original": "rewards_service.released.laion_clap_original:OriginalLaionClapScorer",
    "synchformer": "rewards_service.released.synchformer:SynchformerScorer",
    "audiobox": "rewards_service.released.audiobox:AudioboxScorer",
    "stereo": "rewards_service.released.stereo:StereoScorer",
    "stereo_official": "rewards_service.released.official_stereo:OfficialStereoScorer",
    "stereo_crw": "rewards_service.released.stereo_crw:StereoCrwScorer",
    "stereo_crw_official": "rewards_service.released.stereo_crw:OfficialStereoCrwScorer",
}


def scorer_class(dimension: str, config: ScorerConfig) -> type[Any]:
    """The class of a dimension's scorer. Raises RewardConfigError when it cannot be found."""
    name = config.scorer or dimension
    place = SCORERS.get(name, name)
    module, colon, attribute = place.rpartition(":")
    if not colon:
        raise RewardConfigError(
            f"There is no scorer {name!r} for {dimension}; expected one of {', '.join(SCORERS)}, package.module:Class, "
            "or file.py:Class."
        )
    try:
        found = getattr(_module(module), attribute)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise RewardConfigError(f"The {dimension} reward's scorer {name} cannot be imported: {error}.") from error
    if not is_dataclass(found) or not callable(getattr(found, "score", None)):
        raise RewardConfigError(
            f"{name} is no scorer: expected a dataclass with a score method (rewards_service/scores.py:Scorer)."
        )
    return found  # pyright: ignore[reportReturnType]


def build_scorer(dimension: str, config: ScorerConfig | None = None) -> Scorer:
    """The scorer of a dimension with a recipe's options. Raises RewardConfigError for an unknown name or option."""
    config = config or ScorerConfig()
    made = scorer_class(dimension, config)
    known = [f.name for f in fields(made) if f.init]
    wrong = sorted(set(config.options) - set(known))
    if wrong:
        raise RewardConfigError(
            f"The {dimension} reward has no option {', '.join(wrong)}; its options are {', '.join(known)}."
        )
    options = dict(config.options)
    if config.num_gpus and "device" in known:
        options = {"device": "cuda", **options}
    try:
        return made(**options)
    except TypeError as error:
        raise RewardConfigError(f"The {dimension} reward cannot be made: {error}.") from error


def bounds_of(dimension: str, config: ScorerConfig) -> tuple[float, float]:
    """Lowest and highest score of a dimension."""
    return getattr(scorer_class(dimension, config), "bounds", (0.0, 1.0))


def environment_of(dimension: str, config: ScorerConfig) -> Environment | None:
    """The packages a dimension's scorer needs in an environment of its own; None when it lives in the main one."""
    return getattr(scorer_class(dimension, config), "environment", None)


def build_scorers(config: RewardConfig | None = None) -> dict[str, Scorer]:
    """All scorers of a reward section, for scoring in this process."""
    return {dimension: build_scorer(dimension, c) for dimension, c in (config or RewardConfig()).scorers.items()}


def _module(name: str) -> ModuleType:
    """A module by dotted name, or a file; recipes have its whole path (`rewards_service.config.ScorerConfig`)."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise ImportError(f"there is no file {name} in {Path.cwd()}; on a cluster it must be in the working directory")
    return _executed(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _executed(path: Path, changed: int) -> ModuleType:
    """A file as a module that no import finds, so that its objects travel to other processes with their code."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module
