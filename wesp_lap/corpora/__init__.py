"""Corpora as they are published: archives, downloads, data directories, checks before a run."""
