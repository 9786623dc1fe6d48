"""How a rank is told to stop, and how it ends if that was before the first step."""

from __future__ import annotations

import signal

TOLD_TO_STOP = (signal.SIGTERM, signal.SIGUSR2)
NOT_STARTED = 75
"""The exit status of a rank that was told to stop before the first step; the others are ended then."""
