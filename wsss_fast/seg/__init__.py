"""DeepLabV2, the segmentation network that is trained on pseudo-masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
