"""Kept until the command line imports `wsss_fast.bench.harness.show`."""

from wsss_fast.bench.harness.show import parts

__all__ = ["parts"]
