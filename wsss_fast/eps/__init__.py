"""EPS, "Railroad is not a Train" (Lee, Lee, Lee and Shim, CVPR 2021)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
