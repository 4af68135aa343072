"""The built-in Shapes benchmark.

Modules: figures (`draw`), backgrounds (`ground`), scenes (`scene`), files (`make`), cache
    (`cache`).
"""
