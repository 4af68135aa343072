"""The version, in this one place: pyproject.toml, the package and the documentation read it."""

__version__ = "0.1.0"
