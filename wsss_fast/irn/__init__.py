"""IRN (Ahn, Cho and Kwak, CVPR 2019), as AMN uses it to refine class maps up to boundaries.

The paper is "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations".
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
