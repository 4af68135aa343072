"""Modules with the interfaces of other packages, for existing code."""

from . import bilateralfilter, pamr, par, pydensecrf, regularised

__all__ = ["bilateralfilter", "pamr", "par", "pydensecrf", "regularised"]
