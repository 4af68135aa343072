"""Benchmarks of the methods: `python -m benchmarks NAME`. Those of the ops are `wsss-fast bench`."""
