"""Recipes: YAML on disk plus `key=value` overrides, checked into a typed Section."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from settings.errors import PrismError
from settings.section import Section

S = TypeVar("S", bound=Section)


class ConfigError(PrismError):
    """A recipe or an override that cannot be used; the message names the key and the remedy."""


def load(schema: type[S], path: str | Path, overrides: Iterable[str] = ()) -> S:
    """Read a YAML recipe, apply overrides such as `rollout.workers=2`, and check the result against `schema`.

    Raises ConfigError naming the file, the key and the nearest known key or the expected type.
    """
    raw = read_yaml(path)
    for text in overrides:
        assign(raw, text, schema)
    return check(schema, raw, source=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a plain dict. Raises ConfigError for a missing, unreadable or non-mapping file."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; a recipe is one YAML file inside it.")
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe {path}.{_recipes_nearby(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}. A recipe is a UTF-8 text file in YAML.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, but holds a {type(loaded).__name__}.")
    return loaded


def assign(raw: dict[str, Any], text: str, schema: type[BaseModel] | None = None) -> None:
    """Apply one `dotted.key=value` override in place.

    The value is read as YAML, so `[1, 2]`, `null` and `1e-3` work. Where `schema` wants text or a path the value stays
    as typed: `name=007` is a name.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"Override {text!r} is not of the form key=value, for example seed=3 or rollout.workers=2.")
    try:
        parsed = yaml.load(value, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The value in {text!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if parsed is not None and schema is not None and _wants_text(schema, parts):
        parsed = parsed if isinstance(parsed, str) else value.strip()
    node = raw
    for depth, part in enumerate(parts[:-1], start=1):
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{text!r} reaches into {'.'.join(parts[:depth])}, which is the value {child!r}.")
        node = child
    node[parts[-1]] = parsed


def check(schema: type[S], raw: Mapping[str, Any], source: str = "the configuration") -> S:
    """Turn plain values into `schema`. Raises ConfigError with one readable line per problem."""
    try:
        return schema.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_explain(schema, detail) for detail in error.errors()]
        raise ConfigError(f"{source} cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)) from error


def dump(section: Section) -> str:
    """A section as YAML text that `load` reads back to an equal section."""
    return yaml.dump(section.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)


def _explain(schema: type[BaseModel], detail: ErrorDetails) -> str:
    location = [part for part in detail["loc"] if not (isinstance(part, str) and "[" in part)]
    key = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(schema, location[:-1])
        return f"unknown key {key!r}{_nearest(str(location[-1]), known, location[:-1])}"
    if detail["type"] == "missing":
        return f"{key!r} is required and missing"
    shown = repr(detail["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key!r}: {message}, got {shown}" if key else message


def _nearest(name: str, known: list[str], parents: list[int | str]) -> str:
    prefix = "".join(f"{part}." for part in parents)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix + close[0]!r}?"
    return f"; known keys here: {', '.join(known)}" if known else ""


def _known_keys(schema: type[BaseModel], location: list[int | str]) -> list[str]:
    candidates: list[Any] = [schema]
    for part in location:
        candidates = [inner for outer in candidates for inner in _step(outer, part)]
    return sorted({name for model in candidates for name in model.model_fields})


def _step(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    if isinstance(part, str) and part in model.model_fields:
        return _models_in(model.model_fields[part].annotation)
    # Anything else is a key of a dict, an index of a list or the tag of a union: the same models still apply.
    return [model]


def _wants_text(schema: type[BaseModel], parts: list[str]) -> bool:
    models = [schema]
    for part in parts[:-1]:
        models = [inner for outer in models for inner in _step(outer, part)]
    fields = [model.model_fields[parts[-1]] for model in models if parts[-1] in model.model_fields]
    wanted = [set(typing.get_args(field.annotation) or (field.annotation,)) for field in fields]
    return any(kinds <= {str, Path, types.NoneType} for kinds in wanted)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _recipes_nearby(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("recipes")
    found = sorted(entry.name for entry in folder.glob("*.yaml")) if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, found, n=1)
    if close:
        return f" Did you mean {folder / close[0]}?"
    return f" Recipes in {folder}: {', '.join(found)}." if found else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_UniqueKeyLoader` would read as a number."""


# YAML 1.1 reads 1e-3 as a string because it has no dot; a learning rate should be a number.
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z")
for _class in (_UniqueKeyLoader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
