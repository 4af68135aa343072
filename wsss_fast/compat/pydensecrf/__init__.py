"""pydensecrf's interface over this package's operators; existing code changes only its import.

    from wsss_fast.compat.pydensecrf import densecrf, utils

Its module `eigen` is not needed: matrices are numpy arrays here.
"""

from . import densecrf, utils

__all__ = ["densecrf", "utils"]
