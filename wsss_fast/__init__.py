"""wsss-fast: pixel masks from image tags; `wsss_fast.info()` reports the kernels in use.

Sub-modules are imported at first use, so that `wsss-fast --help` does not wait for torch. What each
package exports stands in its `__init__.pyi`.
"""

import lazy_loader

from wsss_fast._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
