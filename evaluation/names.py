"""Which rewards a run has, in which order and colour they are shown, and who scores and watches them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from cot_service.plan import DIMENSIONS

EXTRA_TONES = 4
"""Colours for rewards beside the usual four."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """The usual four first, in their order, then the others as they came; without `total`."""
    given = [name for name in dict.fromkeys(names) if name != "total"]
    return (*(name for name in DIMENSIONS if name in given), *(name for name in given if name not in DIMENSIONS))


def tone(name: str, names: Sequence[str]) -> str:
    """Class of a reward in the style sheet: its own name for the usual four and the total, else one of `extra0`..."""
    if name in DIMENSIONS or name == "total":
        return name
    others = [other for other in names if other not in DIMENSIONS]
    return f"extra{others.index(name) % EXTRA_TONES if name in others else 0}"


def scored(block: Mapping[str, Any] | None) -> list[str]:
    """Rewards in a block of scores by name."""
    return [name for name in block or {} if name != "total"]


def in_words(names: Sequence[str]) -> str:
    """How many rewards there are, as the subject of a sentence."""
    if len(names) == 1:
        return f"the {names[0]} reward"
    if len(names) == 2:
        return "both dimensions"
    return f"all {NUMBERS[len(names)] if len(names) < len(NUMBERS) else len(names)} dimensions"


def titled(name: str) -> str:
    """A reward's name at the start of a sentence."""
    return name.replace("_", " ").capitalize()


def joined(words: Sequence[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def recipe_of(config: str) -> dict[str, Any]:
    """The `rewards` section of a run's config.yaml; empty where it cannot be read."""
    try:
        loaded = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    found = loaded.get("rewards") if isinstance(loaded, dict) else None
    return found if isinstance(found, dict) else {}


def configured(rewards: Mapping[str, Any], section: str) -> dict[str, str]:
    """{dimension: name of its scorer, "" for the embedded one} of `scorers` or `judges` of a `rewards` section."""
    block = rewards.get(section)
    entries = block.items() if isinstance(block, dict) else ()
    return {str(name): short(str(e.get("scorer") or "")) for name, e in entries if isinstance(e, dict)}


def short(scorer: str) -> str:
    """A scorer's name without the folders of its file."""
    return scorer.rsplit("/", 1)[-1]
