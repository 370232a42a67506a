"""Dead letters that a test did not expect, and those that it did."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from flowmesh.message import DeathReason, Message
from flowmesh.testing.matching import described, matches, shown

__all__ = ["Dead", "DeadLettersError", "check_letters", "list_letters"]


class Dead(Struct, frozen=True):
    """A dead letter that a test expects: at least one that fits has to be left, and none that does not fit.

    `mailbox`: where it died. `reason`: why. `body`: its type, a condition on it, or the very body. What is None fits all.
    """

    mailbox: str | None = None
    reason: DeathReason | None = None
    body: Any = None

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

    `unexpected`: the letters. `missing`: what was expected and did not come.
    """

    def __init__(self, unexpected: Sequence[Message], missing: Sequence[Dead]) -> None:
        self.unexpected = list(unexpected)
        self.missing = list(missing)
        lines: list[str] = []
        if unexpected:
            lines.append(f"dead letters that nobody expected were left ({len(unexpected)}):{list_letters(unexpected)}")
            lines.append("expect them with dead_letters=[Dead(mailbox, reason)], or allow all with dead_letters='any'")
        if missing:
            lines.append(f"no dead letter was left that fits: {'; '.join(map(str, missing))}")
        super().__init__("\n".join(lines))


def check_letters(letters: Sequence[Message], expected: Sequence[Dead]) -> None:
    """Compare what was left with what was expected.

    Raises:
        DeadLettersError: they differ.
    """
    unexpected = [letter for letter in letters if not any(pattern.fits(letter) for pattern in expected)]
    missing = [pattern for pattern in expected if not any(pattern.fits(letter) for letter in letters)]
    if unexpected or missing:
        raise DeadLettersError(unexpected, missing)


def list_letters(letters: Sequence[Message]) -> str:
    """Return a line for each letter, with where, why and in which words it died."""
    lines = [
        f"\n  {shown(letter.body)} in {letter.deaths[0].mailbox!r}: {letter.deaths[0].reason}"
        + (f", {letter.deaths[0].detail}" if letter.deaths[0].detail else "")
        for letter in letters[:20]
    ]
    return "".join(lines) + ("" if len(letters) <= 20 else f"\n  and {len(letters) - 20} more")
