"""When a schedule fires: intervals, anchored so that they do not drift."""

import math

__all__ = ["next_interval"]


def next_interval(anchor: float, every: float, now: float) -> tuple[float, int]:
    """Return the first time after `now` that is a whole number of intervals after `anchor`, and that number.

    The number is what counts: due times are multiples of it, so lateness never adds up.
    """
    number = max(1, math.floor((now - anchor) / every) + 1)
    # The division may round over a whole number, in either direction.
    if anchor + number * every <= now:
        number += 1
    elif number > 1 and anchor + (number - 1) * every > now:
        number -= 1
    return anchor + number * every, number
