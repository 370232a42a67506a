"""Cron lines: the due times of one, in the local time of a zone.

cronsim says which local times a line names; this module says when those are, as Debian's cron does where a zone changes its
clocks.  A line whose minute or hour begins with `*` is about elapsed time: what a change skips is not made up for, and what
comes twice fires twice.  Any other line is about times of the day: a time that is skipped fires once, at the end of the gap,
and a time that comes twice fires the first time only.  Moments are whole seconds since the epoch.
"""

import copy
import datetime
import math
from typing import Final

from cronsim import CronSim, CronSimError

__all__ = ["CronLine"]

_EPOCH: Final = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - local times have no zone here: it is added by hand
_PROBE: Final = 6 * 3600
"""Seconds between two looks at a zone's offset: no zone changes its clocks there and back within so few."""
_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CronLine:
    """One line of five fields (minute, hour, day of month, month, day of week) in one zone.

    Raises:
        ValueError: the line cannot be read, or never comes; it names the line and the mend.
    """

    __slots__ = ("_is_fixed", "_known", "_simulation", "line", "zone")

    def __init__(self, line: str, zone: datetime.tzinfo) -> None:
        self.line = line
        self.zone = zone
        text = _NICKNAMES.get(line.strip().lower(), line)
        fields = text.split()
        if len(fields) != 5:
            raise ValueError(
                f"cron line {line!r} has {len(fields)} field{'' if len(fields) == 1 else 's'}: give five, minute hour "
                "day-of-month month day-of-week, as in '0 9 * * mon-fri' (seconds are for mesh.every)"
            )
        try:
            self._simulation = CronSim(text, datetime.datetime(2000, 1, 1))  # noqa: DTZ001 - as above
            next(copy.copy(self._simulation))
        except CronSimError as error:
            raise ValueError(
                f"cron line {line!r} cannot be read: {str(error).lower()}; give five fields, minute (0-59) hour (0-23) "
                "day-of-month (1-31) month (1-12 or jan-dec) day-of-week (0-7 or sun-sat)"
            ) from None
        except StopIteration:
            raise ValueError(f"cron line {line!r} never comes: no year has such a day") from None
        self._known: tuple[float, float] | None = None  # a moment, and the first due time after it
        self._is_fixed = not (fields[0].startswith("*") or fields[1].startswith("*"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CronLine) and (other.line, other.zone) == (self.line, self.zone)

    def __hash__(self) -> int:
        return hash((self.line, self.zone))

    def after(self, moment: float) -> float | None:
        """Return its first due time after `moment`, or None if there is none within fifty years."""
        known = self._known
        if known is not None and known[0] <= moment < known[1]:
            return known[1]  # Each fire asks for the same one three times: ten microseconds each.
        due = self._after(moment)
        self._known = None if due is None else (moment, due)
        return due

    def _after(self, moment: float) -> float | None:
        second = math.floor(moment)
        offset = self._offset(second)
        while True:
            local = self._local_after(second + offset)
            if local is None:
                return None
            due = local - offset
            change = self._change_within(second, due, offset)
            if change is None:
                if not (self._is_fixed and self._is_second_pass(due)):
                    return float(due)
                second = due
            else:
                following = self._offset(change)
                if self._is_fixed and local < change + following:
                    return float(change)  # That local time is skipped: this is the end of the gap.
                second, offset = change - 1, following  # Look on from where local time goes on.

    def _local_after(self, local: int) -> int | None:
        """Return the first local time after `local` that the line names; both as seconds, as if the zone were UTC."""
        simulation = copy.copy(self._simulation)
        simulation.dt = _EPOCH + datetime.timedelta(seconds=local)
        found = next(simulation, None)
        return None if found is None else int((found - _EPOCH).total_seconds())

    def _offset(self, second: int) -> int:
        if self.zone is datetime.UTC:
            return 0
        offset = datetime.datetime.fromtimestamp(second, self.zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    def _is_second_pass(self, second: int) -> bool:
        return bool(datetime.datetime.fromtimestamp(second, self.zone).fold)

    def _change_within(self, start: int, end: int, offset: int) -> int | None:
        """Return the first second in (start, end] with another offset than `offset`, which is that of `start`."""
        if self.zone is datetime.UTC:
            return None
        low = start
        while low < end:
            high = min(low + _PROBE, end)
            if self._offset(high) != offset:
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
                return high
            low = high
        return None
