"""Scores of trials: cosine, normalisation, calibration, error rates."""
