"""Scores of label maps and class maps, curves over thresholds, reports of runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
