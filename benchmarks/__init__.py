"""Benchmarks: `python -m benchmarks NAME`. Outputs are checked before anything is timed."""
