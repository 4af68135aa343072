"""Benchmarks of the ops: ours, the eager reference and the best outside peer in one run; results agree before a time counts."""
