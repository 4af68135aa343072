"""Masks as the files that annotation tools, trainings and benchmark servers read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
