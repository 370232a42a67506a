"""Threads that are at work for an event loop with virtual time, beside the backends' own.

A thread may say so: one with a true attribute `is_at_work` has something in hand that an event loop of this process waits for.
Time stands still for it, as it does for anyio's worker threads.  What it hands over must be with the loop before the attribute
turns false.
"""

import threading

__all__ = ["has_busy_threads"]


def has_busy_threads() -> bool:
    """Tell whether some thread says that it is at work."""
    return any(getattr(thread, "is_at_work", False) for thread in threading.enumerate())
