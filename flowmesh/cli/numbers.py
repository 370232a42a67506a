"""Numbers and names: counts of things; in little room counts as 12.3k, ages as 42s, names without their middle."""

from typing import Final

from rich.cells import cell_len

__all__ = ["many", "short_age", "short_count", "short_name", "short_rate"]

WHOLE: Final = 10_000
"""Below this a count is written as it is; no short number is wider than 5 columns until 999 of the last unit."""

_UNITS: Final = "kMGTP"
_AGES: Final = ((100.0, 1.0, "s"), (6000.0, 60.0, "m"), (172_800.0, 3600.0, "h"))
"""Up to how many seconds, how many of them make one, and its sign."""


def many(number: int, noun: str) -> str:
    """Return how many of something, such as "1 row" or "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short_count(count: float) -> str:
    """Return a count in at most five columns: 9999, 12.3k, 4.56M."""
    if round(count) < WHOLE:
        return f"{count:.0f}"
    power = 0
    while count >= 999.5 and power < len(_UNITS):
        count /= 1000
        power += 1
    return f"{count:.{2 if count < 9.995 else 1 if count < 99.95 else 0}f}{_UNITS[power - 1]}"


def short_rate(rate: float) -> str:
    """Return a rate in at most five columns; a small one with a decimal place."""
    return f"{rate:.1f}" if 0 < rate < 9.95 else short_count(rate)


def short_age(seconds: float) -> str:
    """Return a time span in at most four columns while it is shorter than a hundred days: 4.2s, 42s, 17m, 5h, 12d."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    for limit, size, sign in _AGES:
        if seconds < limit - size / 2:
            return f"{seconds / size:.0f}{sign}"
    return f"{seconds / 86_400:.0f}d"


def short_name(name: str, width: int, ellipsis: str = "…") -> str:
    """Return the name in at most so many columns, its middle left out if need be: both ends tell names apart.

    Args:
        name: printable text.
        width: columns, at least those of the ellipsis.
        ellipsis: what stands for the middle.
    """
    if cell_len(name) <= width:
        return name
    room = width - cell_len(ellipsis)
    head = _fitting(name, room - room // 2)
    tail = _fitting(name[::-1], room - cell_len(head))[::-1]
    return f"{head}{ellipsis}{tail}"


def _fitting(text: str, width: int) -> str:
    """Return the longest beginning of the text that has at most so many columns."""
    while cell_len(text) > width:
        text = text[: max(0, min(len(text) - 1, width))]
    return text
