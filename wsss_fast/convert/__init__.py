"""Class maps from and to the files of public code: pickled `.npy` files, gray PNGs per class."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
