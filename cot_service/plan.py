"""The four-part chain of thought that conditions generation (PrismAudio, arXiv 2511.18833, section 3)."""

from dataclasses import asdict, dataclass

from settings import PrismError

DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial")
DEFAULT_TEMPLATE = "Semantic: {semantic} Temporal: {temporal} Aesthetic: {aesthetic} Spatial: {spatial}"


@dataclass(frozen=True)
class Plan:
    """Four texts about one video, one per dimension, and the name of the planner that wrote them."""

    semantic: str
    temporal: str
    aesthetic: str
    spatial: str
    source: str

    def join(self, template: str = DEFAULT_TEMPLATE) -> str:
        """One paragraph out of the four texts; `template` names each dimension in braces.

        Raises PrismError when the template names anything but the four dimensions.
        """
        texts = {name: getattr(self, name) for name in DIMENSIONS}
        try:
            return template.format(**texts)
        except (KeyError, IndexError) as error:
            raise PrismError(
                f"Plan template {template!r} refers to {error}; use only {{{'}, {'.join(DIMENSIONS)}}}."
            ) from error

    def as_dict(self) -> dict[str, str]:
        """The plan as plain JSON values."""
        return asdict(self)
