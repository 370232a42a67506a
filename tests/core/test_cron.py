"""Cron lines: Debian's rules where zones change their clocks, against an oracle that goes through the minutes one by one."""

import datetime
import functools
import itertools
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.cron import CronLine

UTC = datetime.UTC
MINUTE, HOUR, DAY = 60, 3600, 86_400
FIRST = int(datetime.datetime(2020, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime.datetime(2036, 1, 1, tzinfo=UTC).timestamp())

Matches = Callable[[datetime.datetime], bool]


def at(second: float, zone: datetime.tzinfo) -> datetime.datetime:
    """A moment in local time."""
    return datetime.datetime.fromtimestamp(second, zone)


def offset_at(second: int, zone: datetime.tzinfo) -> int:
    """Seconds between local time and UTC."""
    offset = at(second, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def transitions(zone: datetime.tzinfo, first: int = FIRST, last: int = LAST) -> Iterator[int]:
    """The seconds at which a zone changes its offset, found week by week: none does so twice in one."""
    before = offset_at(first, zone)
    for week in range(first, last, 7 * DAY):
        after = offset_at(week + 7 * DAY, zone)
        if after != before:
            low, high = week, week + 7 * DAY
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if offset_at(middle, zone) == after else (middle, high)
            yield high
        before = after


@functools.lru_cache(maxsize=1)
def local_minutes(zone: datetime.tzinfo, first: int, last: int) -> dict[int, datetime.datetime]:
    """What a clock on the wall shows at each minute."""
    return {second: at(second, zone).replace(tzinfo=None) for second in range(first, last + 1, MINUTE)}


def oracle(matches: Matches, zone: datetime.tzinfo, first: int, last: int, *, is_fixed: bool) -> list[int]:
    """Debian's rules, minute by minute: what a cron daemon that wakes each minute of (first, last] would do."""
    fired: list[int] = []
    virtual, *_ = local_minutes(zone, first, last).values()  # up to this local time, fixed jobs have been dealt with
    for second, local in local_minutes(zone, first, last).items():
        if second == first:
            continue
        if not is_fixed:
            if matches(local):
                fired.append(second)
            continue
        is_due = False
        while virtual < local:  # one minute usually; all that was skipped, at the end of a gap
            virtual += datetime.timedelta(minutes=1)
            is_due = is_due or matches(virtual)
        if is_due:
            fired.append(second)
    return fired


def found(line: str, zone: datetime.tzinfo, first: int, last: int) -> list[int]:
    """What the line itself says, one due time after another."""
    cron, due = CronLine(line, zone), float(first)
    fired: list[int] = []
    while (due := cron.after(due) or last + 1) <= last:
        fired.append(int(due))
    return fired


def lines_around(change: int, zone: datetime.tzinfo) -> Iterator[tuple[str, Matches, bool]]:
    """Lines that name times in the hours that a change skips or repeats, as text, and as a predicate of local time."""
    before = at(change - 1, zone).replace(tzinfo=None) + datetime.timedelta(seconds=1)
    after = at(change, zone).replace(tzinfo=None)
    begin, end = min(before, after), max(before, after)  # the local times that do not exist, or come twice
    middle = begin + (end - begin) / 2
    minute, hour = middle.minute, middle.hour
    yield f"{minute} {hour} * * *", lambda local: (local.hour, local.minute) == (hour, minute), True
    yield "*/30 * * * *", lambda local: local.minute % 30 == 0, False
    yield f"{begin.minute} {begin.hour} * * *", lambda local: (local.hour, local.minute) == (begin.hour, begin.minute), True
    yield f"*/20 {hour} * * *", lambda local: local.minute % 20 == 0 and local.hour == hour, False
    yield (
        f"5,{minute} {hour} {middle.day} * *",
        lambda local: local.minute in (5, minute) and local.hour == hour and local.day == middle.day,
        True,
    )


@functools.cache
def all_changes() -> dict[tuple[int, int, int], list[str]]:
    """Every change of every zone from 2020 to 2035: (when, offset before, offset after) and the zones that have it."""
    known: dict[tuple[int, int, int], list[str]] = {}
    for name in sorted(zoneinfo.available_timezones()):
        zone = zoneinfo.ZoneInfo(name)
        for change in transitions(zone):
            known.setdefault((change, offset_at(change - 1, zone), offset_at(change, zone)), []).append(name)
    return known


def test_every_change_of_every_zone() -> None:
    """Once in a gap, once in a fold, elapsed time for `*`: as the oracle says, in all zones, at all changes, 2020 to 2035."""
    changes = all_changes()
    assert len(changes) > 300, "no zones: is tzdata there?"
    for (change, before, after), names in changes.items():
        around = max(3 * HOUR, 2 * abs(after - before))
        first, last = change - around, change + around
        expected: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            zone = zoneinfo.ZoneInfo(name)
            for line, matches, is_fixed in list(lines_around(change, zone))[: 2 if number else None]:
                if line not in expected:
                    # Zones with the same offsets have the same local times: one oracle for all, and fewer lines.
                    expected[line] = oracle(matches, zone, first, last, is_fixed=is_fixed)
                assert found(line, zone, first, last) == expected[line], f"{line} in {name} at {at(change, zone)}"


def whole(line: str, matches: Matches, name: str, begin: str, days: float, *, is_fixed: bool) -> list[str]:
    """Compare some days with the oracle and return the due times as local text."""
    zone = zoneinfo.ZoneInfo(name)
    first = int(datetime.datetime.fromisoformat(begin).replace(tzinfo=zone).timestamp())
    last = first + int(days * DAY)
    fired = found(line, zone, first, last)
    assert fired == oracle(matches, zone, first, last, is_fixed=is_fixed)
    return [at(due, zone).strftime("%d %H:%M %z") for due in fired]


def test_a_gap_fires_once_at_its_end() -> None:
    """Two times of the day that are skipped together are one fire, when the clocks have changed."""
    fired = whole(
        "0,30 2 * * *", lambda t: t.hour == 2 and t.minute in (0, 30), "America/New_York", "2024-03-09T12:00", 2, is_fixed=True
    )
    assert fired == ["10 03:00 -0400", "11 02:00 -0400", "11 02:30 -0400"]


def test_a_fold_fires_the_first_time() -> None:
    """Also when it is asked in between, or during the second pass."""
    fired = whole(
        "30 1 * * *", lambda t: (t.hour, t.minute) == (1, 30), "America/New_York", "2024-11-02T12:00", 2, is_fixed=True
    )
    assert fired == ["03 01:30 -0400", "04 01:30 -0500"]
    zone = zoneinfo.ZoneInfo("America/New_York")
    second_pass = datetime.datetime(2024, 11, 3, 1, 15, tzinfo=zone, fold=1).timestamp()
    due = CronLine("30 1 * * *", zone).after(second_pass)
    assert due is not None
    assert at(due, zone).day == 4


def test_steps_keep_elapsed_time() -> None:
    """`*/30` comes every half hour of real time through a fold and a gap."""
    for begin in ("2024-03-30T12:00", "2024-10-26T12:00"):
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
        first = int(datetime.datetime.fromisoformat(begin).replace(tzinfo=zone).timestamp())
        fired = found("*/30 * * * *", zone, first, first + DAY)
        assert {later - earlier for earlier, later in itertools.pairwise(fired)} == {1800}


def test_lord_howe_changes_by_half_an_hour() -> None:
    """Twice a year, 02:00 to 02:30 and back: nothing is lost of the hour in which it does."""
    name = "Australia/Lord_Howe"
    assert whole("15 2 * * *", lambda t: (t.hour, t.minute) == (2, 15), name, "2024-10-05T12:00", 1, is_fixed=True) == [
        "06 02:30 +1100"
    ]
    assert whole("45 1 * * *", lambda t: (t.hour, t.minute) == (1, 45), name, "2024-04-06T12:00", 1, is_fixed=True) == [
        "07 01:45 +1100"
    ]
    fired = whole("*/15 2 * * *", lambda t: t.hour == 2 and t.minute % 15 == 0, name, "2024-04-06T12:00", 1, is_fixed=False)
    assert [text[3:8] for text in fired] == ["02:00", "02:15", "02:30", "02:45"]


def test_apia_skipped_a_day() -> None:
    """There was no 30 December 2011 in Samoa: what was due on it came at its end, what steps came not at all."""
    name = "Pacific/Apia"
    daily = whole("0 9 * * *", lambda t: (t.hour, t.minute) == (9, 0), name, "2011-12-29T00:00", 2, is_fixed=True)
    assert daily == ["29 09:00 -1000", "31 00:00 +1400", "31 09:00 +1400"]
    matches: Any = lambda t: t.minute == 0 and t.hour % 6 == 0  # noqa: E731
    steps = whole("0 */6 * * *", matches, name, "2011-12-29T13:00", 1, is_fixed=False)
    assert steps == ["29 18:00 -1000", "31 00:00 +1400", "31 06:00 +1400", "31 12:00 +1400"]


def test_midnight_can_be_skipped() -> None:
    """Where clocks go from 24:00 to 01:00, steps within the first hour do not come that day, a time of the day does."""
    name = "Africa/Cairo"
    zone = zoneinfo.ZoneInfo(name)
    first = int(datetime.datetime(2024, 4, 25, 12, tzinfo=zone).timestamp())
    assert found("*/20 0 * * fri", zone, first, first + DAY) == []
    assert [at(due, zone).hour for due in found("0 0 * * fri", zone, first, first + DAY)] == [1]


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin"])
def test_leap_days(name: str) -> None:
    """29 February comes every four years, and not in 2100."""
    zone = UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    cron, due, years = CronLine("0 12 29 2 *", zone), datetime.datetime(2090, 1, 1, tzinfo=UTC).timestamp(), list[int]()
    for _ in range(4):
        following = cron.after(due)
        assert following is not None
        due = following
        years.append(at(due, zone).year)
        assert (at(due, zone).month, at(due, zone).day, at(due, zone).hour) == (2, 29, 12)
    assert years == [2092, 2096, 2104, 2108]


def test_days_are_either_or_unless_one_begins_with_a_star() -> None:
    """Debian's rule: `13 * fri` is the 13th or a Friday; with a star in one field, both must hold."""
    first = int(datetime.datetime(2024, 9, 1, tzinfo=UTC).timestamp())
    fired = found("0 0 13 * fri", UTC, first, first + 30 * DAY)
    assert [at(due, UTC).day for due in fired] == [6, 13, 20, 27]
    fired = found("0 0 */13 * fri", UTC, first, first + 30 * DAY)
    assert [at(due, UTC).day for due in fired] == [27]


def test_a_due_time_is_later_than_the_moment() -> None:
    """By a fraction of a second, if need be; the moment itself is not later."""
    cron = CronLine("0 9 * * *", UTC)
    nine = datetime.datetime(2024, 1, 1, 9, tzinfo=UTC).timestamp()
    assert [cron.after(moment) for moment in (nine - 0.001, nine - 1e-6, nine)] == [nine, nine, nine + DAY]


@pytest.mark.parametrize("nickname, line", [("@hourly", "0 * * * *"), ("@Daily ", "0 0 * * *"), ("@weekly", "0 0 * * sun")])
def test_nicknames(nickname: str, line: str) -> None:
    """`@daily` and its like stand for a line."""
    first = FIRST + 12345
    assert found(nickname, UTC, first, first + 30 * DAY) == found(line, UTC, first, first + 30 * DAY)


@pytest.mark.parametrize(
    "line, text",
    [
        ("* * * *", r"cron line '\* \* \* \*' has 4 fields: give five, minute hour day-of-month month day-of-week"),
        ("* * * * * *", r"has 6 fields: give five, .* \(seconds are for mesh\.every\)"),
        ("", r"cron line '' has 0 fields"),
        ("@reboot", r"cron line '@reboot' has 1 field: give five"),
        ("61 * * * *", r"cron line '61 \* \* \* \*' cannot be read: bad minute; give five fields, minute \(0-59\)"),
        ("0 9 * * mon-fry", r"cannot be read: bad day-of-week"),
        ("0 9 31 2 *", r"cannot be read: bad day-of-month"),
        ("0 9 -1 * *", r"cannot be read: bad day-of-month"),
        ("*/0 9 * * *", r"cannot be read: bad minute"),
    ],
)
def test_a_bad_line_names_itself_and_the_mend(line: str, text: str) -> None:
    """It fails where it is made, with what is wrong and what is right."""
    with pytest.raises(ValueError, match=text):
        CronLine(line, UTC)


@given(
    st.sampled_from(["* * * * *", "*/30 * * * *", "30 2 * * *", "0 9 * * mon-fri", "0 */6 * * *", "15 1-3 * * sun"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    st.lists(st.integers(-9_000, 9_000), min_size=2, max_size=12),
    st.sampled_from(["2026-03-29T01:00Z", "2026-10-25T01:00Z", "2026-04-04T15:00Z"]),  # changes of these zones
)
def test_the_order_of_questions_does_not_matter(line: str, zone: str, minutes: list[int], near: str) -> None:
    """What it remembers of the last answer is what it would find again, also where clocks change."""
    base = datetime.datetime.fromisoformat(near).timestamp()
    one = CronLine(line, zoneinfo.ZoneInfo(zone))
    for minute in minutes:
        moment = base + minute * 60 / 7
        due = one.after(moment)
        assert due == CronLine(line, zoneinfo.ZoneInfo(zone)).after(moment)
        assert due is not None
        assert one.after(due) == CronLine(line, zoneinfo.ZoneInfo(zone)).after(due)
