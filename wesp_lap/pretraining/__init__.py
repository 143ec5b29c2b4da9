"""Self-pre-training: k-means targets, masked prediction, and the encoders that learn from it."""
