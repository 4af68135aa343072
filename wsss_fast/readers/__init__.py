"""Readers of users' files: each knows what its values may be, and rejects or remarks."""
