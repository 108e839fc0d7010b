"""The sound classes. Two share each visible shape, so only the caption tells them apart."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Material:
    """One class of sounding object.

    label: class name. shape: what the picture shows. words: (adjective, noun) pairs a caption may use.
    modes: (frequency Hz, relative amplitude, decay s) of the struck resonances.
    noise: (low Hz, high Hz, relative amplitude, decay s) of the contact burst.
    """

    label: str
    shape: str
    words: tuple[tuple[str, str], ...]
    modes: tuple[tuple[float, float, float], ...]
    noise: tuple[float, float, float, float]


MATERIALS: tuple[Material, ...] = (
    Material(
        "rubber",
        "disc",
        (("rubber", "ball"), ("bouncy", "ball")),
        ((140, 1.0, 0.05), (260, 0.5, 0.035)),
        (60, 700, 0.25, 0.02),
    ),
    Material(
        "glass",
        "disc",
        (("glass", "marble"), ("crystal", "marble")),
        ((2600, 1.0, 0.16), (4300, 0.7, 0.12), (6400, 0.4, 0.08)),
        (3000, 7800, 0.15, 0.006),
    ),
    Material(
        "wood",
        "square",
        (("wooden", "block"), ("wood", "crate")),
        ((480, 1.0, 0.05), (940, 0.7, 0.035), (1560, 0.4, 0.025)),
        (300, 3000, 0.25, 0.012),
    ),
    Material(
        "metal",
        "square",
        (("metal", "tin"), ("steel", "can")),
        ((830, 0.7, 0.22), (1790, 1.0, 0.18), (3170, 0.8, 0.14), (4850, 0.5, 0.1)),
        (2000, 7000, 0.2, 0.01),
    ),
    Material(
        "stone", "triangle", (("stone", "pebble"), ("rock", "pebble")), ((1150, 0.15, 0.02),), (900, 5200, 1.0, 0.03)
    ),
    Material(
        "bronze",
        "triangle",
        (("bronze", "bell"), ("brass", "bell")),
        ((420, 1.0, 0.35), (845, 0.8, 0.3), (1010, 0.5, 0.25), (1700, 0.25, 0.15)),
        (1000, 4000, 0.08, 0.01),
    ),
    Material(
        "plastic",
        "ring",
        (("plastic", "ring"), ("plastic", "hoop")),
        ((1250, 0.8, 0.03), (2150, 0.7, 0.025)),
        (2500, 7500, 0.7, 0.02),
    ),
    Material(
        "drum",
        "ring",
        (("leather", "drum"), ("skin", "drum")),
        ((95, 1.0, 0.14), (155, 0.7, 0.1), (225, 0.4, 0.07)),
        (100, 2200, 0.35, 0.05),
    ),
)
LABELS = tuple(m.label for m in MATERIALS)
