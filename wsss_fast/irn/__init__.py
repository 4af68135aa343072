"""IRN, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
