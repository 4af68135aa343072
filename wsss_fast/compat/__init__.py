"""Modules with the interfaces of other packages, for existing code."""

from . import pamr, par, pydensecrf

__all__ = ["pamr", "par", "pydensecrf"]
