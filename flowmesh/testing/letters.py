"""Dead letters that a test did not expect, and those that it did."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from flowmesh.checks import is_whole, require
from flowmesh.message import DeathReason, Message
from flowmesh.testing.matching import described, matches, shown

__all__ = ["Dead", "DeadLettersError", "check_letters", "list_letters"]


class Dead(Struct, frozen=True):
    """A dead letter that a test expects: exactly one that fits has to be left, or `count` of them.

    `mailbox`: where it died. `reason`: why. `body`: its type, a condition on it, or the very body. What is None fits all.
    `count`: how many such letters; None: any number, at least one. No letter counts for two entries.

    Raises:
        ValueError: `count` is neither a whole number of at least 1 nor None.
    """

    mailbox: str | None = None
    reason: DeathReason | None = None
    body: Any = None
    count: int | None = 1

    def __post_init__(self) -> None:
        is_count = self.count is None or (is_whole(self.count) and self.count >= 1)
        require(is_count, "count", "a whole number of at least 1, or None", self.count)

    def fits(self, letter: Message) -> bool:
        """Tell whether this is such a letter."""
        death = letter.deaths[0]
        return (
            self.mailbox in (None, death.mailbox)
            and self.reason in (None, death.reason)
            and (self.body is None or matches(self.body, letter.body))
        )

    def __str__(self) -> str:
        body = "any body" if self.body is None else described(self.body)
        where = "any mailbox" if self.mailbox is None else repr(self.mailbox)
        return f"{body} in {where}: {self.reason or 'any reason'}"


class DeadLettersError(AssertionError):
    """A test left dead letters that it did not expect, or did not leave one that it expected.

    `unexpected`: the letters. `missing`: what was expected and did not come, once for each letter.
    """

    def __init__(self, unexpected: Sequence[Message], missing: Sequence[Dead]) -> None:
        self.unexpected = list(unexpected)
        self.missing = list(missing)
        lines: list[str] = []
        if unexpected:
            lines.append(f"dead letters that nobody expected were left ({len(unexpected)}):{list_letters(unexpected)}")
            lines.append("expect them with dead_letters=[Dead(mailbox, reason)], or allow all with dead_letters='any'")
        if missing:
            several = [(pattern, len(list(same))) for pattern, same in itertools.groupby(missing, key=str)]
            listed = "; ".join(pattern if count == 1 else f"{pattern} ({count} more)" for pattern, count in several)
            lines.append(f"no dead letter was left that fits: {listed}")
        super().__init__("\n".join(lines))


def check_letters(letters: Sequence[Message], expected: Sequence[Dead]) -> None:
    """Compare what was left with what was expected.

    Raises:
        DeadLettersError: they differ.
    """
    fitting = [[place for place, pattern in enumerate(expected) if pattern.fits(letter)] for letter in letters]
    is_spare = [any(expected[place].count is None for place in places) for places in fitting]
    # Those that count for nothing beyond what was asked for go first, for each finds a place unless it costs an earlier one's.
    in_line = sorted(range(len(letters)), key=is_spare.__getitem__)
    given = _give(in_line, fitting, [pattern.count or 1 for pattern in expected])
    taken = {letter for those in given for letter in those}
    unexpected = [letter for number, letter in enumerate(letters) if number not in taken and not is_spare[number]]
    missing = [
        pattern for pattern, those in zip(expected, given, strict=True) for _ in range((pattern.count or 1) - len(those))
    ]
    if unexpected or missing:
        raise DeadLettersError(unexpected, missing)


def _give(letters: Iterable[int], fitting: Sequence[Sequence[int]], room: Sequence[int]) -> list[list[int]]:
    """Give letters to the entries that they fit, each to one, as many as there is room for; return those of each entry.

    One that finds no room may move others to another entry that they fit (augmenting paths: a maximum matching).
    """
    given: list[list[int]] = [[] for _ in room]

    def find_place(letter: int, asked: set[int]) -> bool:
        free = next((place for place in fitting[letter] if len(given[place]) < room[place]), None)
        if free is not None:
            given[free].append(letter)
            return True
        for place in fitting[letter]:
            if place not in asked:
                asked.add(place)
                for number, other in enumerate(given[place]):
                    if find_place(other, asked):
                        given[place][number] = letter
                        return True
        return False

    for letter in letters:
        find_place(letter, set())
    return given


def list_letters(letters: Sequence[Message]) -> str:
    """Return a line for each letter, with where, why and in which words it died."""
    lines = [
        f"\n  {shown(letter.body)} in {letter.deaths[0].mailbox!r}: {letter.deaths[0].reason}"
        + (f", {letter.deaths[0].detail}" if letter.deaths[0].detail else "")
        for letter in letters[:20]
    ]
    return "".join(lines) + ("" if len(letters) <= 20 else f"\n  and {len(letters) - 20} more")
