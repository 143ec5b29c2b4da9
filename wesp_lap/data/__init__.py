"""Shards with their index, noise banks, and the sample stream."""
