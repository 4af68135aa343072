"""Objects that live as long as the process, also where the package is imported a second time.

The libraries and operators that are registered with torch cannot be registered again.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

# Its name does not start with the package's: who removes the package's modules leaves it.
_MODULE = "_wsss_fast_process"


def shared(name: str, make: Callable[[], Any]) -> Any:
    """The object that this process knows by `name`, made at the first call."""
    objects = sys.modules.setdefault(_MODULE, types.ModuleType(_MODULE)).__dict__
    return objects[name] if name in objects else objects.setdefault(name, make())
