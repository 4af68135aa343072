"""The embedded Shapes benchmark: drawing (`draw`), scenes (`scene`), files (`make`), the cache (`cache`)."""
