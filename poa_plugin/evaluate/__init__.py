"""Evaluation: measuring what networks can do: images, features, neighbors, sweeps and latency."""
