"""Which network of a sweep to take, and why."""
