"""Training: the loop, schedules, the optimizer, checkpoints and metrics."""
