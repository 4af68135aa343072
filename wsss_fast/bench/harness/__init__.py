"""What the benchmarks share: running, comparing, timing, measuring memory, tables and plots."""

from wsss_fast.bench.harness.run import Report, Row, run_suite

__all__ = ["Report", "Row", "run_suite"]
