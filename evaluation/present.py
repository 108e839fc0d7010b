"""Numbers and measured details in words a reader can take in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNITS = {"_s": "s", "_ms": "ms", "_db": "dB", "_hz": "Hz", "_share": "%"}
BLURBS = {
    "semantic": "Does it sound like the thing described?",
    "temporal": "Does it sound when the picture hits?",
    "aesthetic": "Is it a clean recording?",
    "spatial": "Does it come from where the object is?",
    "total": "Mean of the four dimensions.",
}
MEASURES = {
    "onset_f1": ("Onset F1 within 70 ms", True, 2),
    "count_exact": ("Right number of impacts", True, 2),
    "class_top1": ("Class recognised by a judge", True, 2),
    "level_position_corr": ("Level difference follows position (r)", True, 2),
    "delay_position_corr": ("Ear delay follows position (r)", True, 2),
    "log_mel_distance_db": ("Log-mel distance to clean sound, dB", False, 1),
}


@dataclass(frozen=True)
class Watcher:
    """How to write down the measure that watches a dimension.

    height: how much of it is drawn as tall as 1 of the trained score.
    """

    label: str
    unit: str = ""
    height: float = 1.0


WATCHERS = {
    "semantic": Watcher("probability of the true class, by the judge"),
    "temporal": Watcher("onset F1, from rises in dB"),
    "aesthetic": Watcher("closeness to the clean sound's levels", " dB", 5.0),
    "spatial": Watcher("place heard against place seen, by plain correlation"),
}


def watcher(name: str, judge: str | None = None) -> Watcher:
    """What watches a dimension: the judge that a recipe names, else what is built in."""
    return Watcher(f"the judge {judge}") if judge else WATCHERS.get(name, Watcher("its watcher"))


def alarm_sentence(alarm: Mapping[str, Any]) -> str:
    """An alarm of metrics.jsonl or summary.json in words."""
    name = str(alarm["dimension"])
    watching = watcher(name, alarm.get("judge"))
    gain, loss = (
        f"{number(abs(alarm[f'{what}_change']))}{unit} ± {number(alarm[f'{what}_stderr'])}"
        for what, unit in (("reward", ""), ("monitor", watching.unit))
    )
    when = f"from update {alarm['since_iteration']} to {alarm['iteration']}"
    said = f"what watches it ({watching.label})"
    return f"Alarm, {name}: {when} the trained score rose by {gain}, but {said} fell by {loss}."


def blurb(name: str, scorer: str = "") -> str:
    """What a reward asks, and which scorer of the recipe answers when it is not the embedded one."""
    told = [BLURBS[name]] if name in BLURBS else []
    return " ".join([*told, *([f"Scored by {scorer}."] if scorer else [])])


def number(value: Any, digits: int = 3) -> str:
    """A number with fixed digits, or a dash."""
    if not isinstance(value, (int, float)) or value != value:
        return "–"
    return f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A gain with its sign (a real minus), or a dash."""
    if value is None or value != value:
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−")


def count(value: Any) -> str:
    """A whole number with thin groups, or a dash."""
    return f"{int(value):,}".replace(",", "\u202f") if isinstance(value, (int, float)) else "–"


def duration(seconds: Any) -> str:
    """Seconds as words: 47.9 s, 1 min 28 s, 2 h 3 min."""
    if not isinstance(seconds, (int, float)) or seconds != seconds:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class Row:
    """One measured thing: a text, or a small table with column headings."""

    label: str
    text: str = ""
    head: tuple[str, ...] = ()
    body: tuple[tuple[str, ...], ...] = ()


def details(measured: Mapping[str, Any]) -> list[Row]:
    """What a scorer measured, without what is empty or false; units come from the ends of the keys."""
    return [_row(key, value) for key, value in measured.items() if not _empty(value)]


def _empty(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (str, list, Mapping)) and not value)


def _row(key: str, value: Any) -> Row:
    label, unit = _label(key)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list) and all(isinstance(v, Mapping) for v in value):
        keys = list(dict.fromkeys(k for v in value for k in v))
        names = [_label(k) for k in keys]
        body = tuple(tuple(_value(v.get(k), u) for k, (_, u) in zip(keys, names, strict=True)) for v in value)
        return Row(label, head=tuple(f"{n} ({u})" if u else n for n, u in names), body=body)
    values = value if isinstance(value, list) else [value]
    return Row(label, f"{', '.join(_value(v, unit) for v in values)} {unit}".rstrip())


def _label(key: str) -> tuple[str, str]:
    ending = next((e for e in sorted(UNITS, key=len, reverse=True) if key.endswith(e)), "")
    return key.removesuffix(ending).replace("_", " "), UNITS.get(ending, "")


def _value(value: Any, unit: str) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if not isinstance(value, (int, float)):
        return str(value)
    if value != value:
        return "–"
    digits = {"Hz": 0, "%": 1, "dB": 1, "ms": 1}.get(unit, 0 if isinstance(value, int) else 2)
    text = f"{100 * value if unit == '%' else value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
