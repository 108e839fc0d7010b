"""Numbers and measured details in words a reader can take in."""

from collections.abc import Mapping
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


def details(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a scorer measured as (label, text) rows; units come from the key's ending, records become lines."""
    return [row for key, value in measured.items() if value not in (None, [], {}) for row in _rows(key, value)]


def _rows(key: str, value: Any) -> list[tuple[str, str]]:
    label, unit = _label(key)
    if isinstance(value, Mapping):
        return [(f"{label}: {name}", text) for name, text in details(value)]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        lines = [
            ", ".join(text if i == 0 else f"{name} {text}" for i, (name, text) in enumerate(details(v))) for v in value
        ]
        return [(label, "\n".join(lines))]
    if isinstance(value, list):
        text = (", " if not unit else "  ").join(_value(v, unit) for v in value)
        return [(label, f"{text} {unit}".rstrip())]
    return [(label, f"{_value(value, unit)} {unit}".rstrip())]


def _label(key: str) -> tuple[str, str]:
    ending = next((e for e in sorted(UNITS, key=len, reverse=True) if key.endswith(e)), "")
    return key.removesuffix(ending).replace("_", " "), UNITS.get(ending, "")


def _value(value: Any, unit: str) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if not isinstance(value, (int, float)):
        return str(value)
    value = 100 * value if unit == "%" else value
    digits = {"Hz": 0, "%": 1, "dB": 1, "ms": 2 if abs(value) < 10 else 0}.get(unit, 2)
    text = f"{value:.{0 if isinstance(value, int) and not unit else digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")
