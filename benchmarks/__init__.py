"""Benchmarks of the methods, `python -m benchmarks NAME`; `wsss-fast bench` measures the ops."""
