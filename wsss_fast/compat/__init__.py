"""Modules with the interfaces of other packages, for existing code."""

from . import pydensecrf

__all__ = ["pydensecrf"]
