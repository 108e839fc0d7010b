"""Strict configuration: sections, YAML recipes with overrides, and the error a user can act on."""

from settings.errors import PrismError
from settings.section import Section

__all__ = ["PrismError", "Section"]
