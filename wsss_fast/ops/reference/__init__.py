"""Every op in plain PyTorch: slow, short, float64-capable; the kernels are tested against it.

The functions are those that the modules of this folder list in their `__all__`.
"""

import importlib
import pkgutil
from typing import Any

__all__: list[str] = []
for _module in pkgutil.iter_modules(__path__):
    _members = importlib.import_module(f"{__name__}.{_module.name}")
    for _name in getattr(_members, "__all__", ()):
        globals()[_name] = getattr(_members, _name)
        __all__.append(_name)
__all__.sort()


def __getattr__(name: str) -> Any:  # tells type checkers that the names are found at run time
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
