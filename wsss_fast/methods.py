"""The methods of this package: sub-packages that declare their commands in `commands.py`."""

METHODS = ("amn", "eps", "ccr", "cam", "irn", "seg")
