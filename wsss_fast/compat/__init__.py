"""Modules with the interfaces of other packages, for existing code."""

from . import bilateralfilter, pydensecrf

__all__ = ["bilateralfilter", "pydensecrf"]
