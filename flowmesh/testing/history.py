"""A history of what entered each mailbox and what came of it, and a checker that finds what must never happen.

Findings, each naming the copy:

* lost: a copy that entered has neither ended nor is anywhere; or a mailbox has not got what the receipt of a publish promised.
* duplicated: a copy is handed out although it is in hand or has ended, or ends again.
* unexpected: a copy is handed out, goes back or ends that never entered.
* reordered: a copy is handed out although one that goes before it, of its mailbox and lane, is ready.

The rules need no more than the points that an Observer is told (`judge` works on any record of them, so that it can be tested
with faults that no mesh has).  A handler that runs again after a failure is no duplicate: its copy went back in between.
What a state machine postpones is in hand until it is resumed, and then goes before what entered later.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct

from flowmesh._core.entry import Outcome
from flowmesh.message import Message, Receipt
from flowmesh.ports import Observer

__all__ = ["Finding", "History", "HistoryError", "Kind", "Lane", "Orders", "Recorded", "judge"]

Kind = Literal["lost", "duplicated", "unexpected", "reordered"]
Point = Literal["entered", "handed_out", "retried", "postponed", "resumed", "settled"]
Lane = Callable[[Any], object]
Rank = tuple[int, int, str]


class Recorded(Struct, frozen=True):
    """One point of a copy's life. `outcome`: of its end. `delay`: of its going back, in seconds."""

    point: Point
    mailbox: str
    message: Message
    outcome: Outcome | None = None
    delay: float = 0.0


class Finding(Struct, frozen=True):
    """Something that must never happen, and the copy to which it did; `message` is None where only its id is known."""

    kind: Kind
    mailbox: str
    message_id: str
    message: Message | None
    text: str

    def __str__(self) -> str:
        body = "" if self.message is None else f" {self.message.body!r}"
        return f"{self.kind}: message {self.message_id}{body} of mailbox {self.mailbox!r} {self.text}"


class HistoryError(AssertionError):
    """A history with findings. `findings`: what they are."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        lines = [f"\n  {finding}" for finding in self.findings[:20]]
        more = "" if len(self.findings) <= 20 else f"\n  and {len(self.findings) - 20} more"
        super().__init__(f"the history of the mesh has {len(self.findings)} faults:{''.join(lines)}{more}")


class Orders(Struct, frozen=True):
    """How mailboxes hand out. `by`: what puts their copies into lanes, by name; `prioritised`: those that go by priority."""

    by: Mapping[str, Lane] = {}
    prioritised: frozenset[str] = frozenset()


class History(Observer):
    """Records what becomes of every copy. Give it to `running(mesh, history=...)`, which checks it when the mesh has stopped.

    Args:
        by: how the copies of a mailbox fall into lanes, by the mailbox's name, if not as the actors on it say.
    """

    def __init__(self, *, by: Mapping[str, Lane] | None = None) -> None:
        self.records: list[Recorded] = []
        self.receipts: list[Receipt] = []
        self.by = dict(by or {})
        self._orders: Callable[[], Orders] = Orders

    # What a mesh tells.

    def entered(self, message: Message, mailbox: str, /) -> None:
        """Record it."""
        self.records.append(Recorded("entered", mailbox, message))

    def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
        """Record it."""
        self.records.append(Recorded("handed_out", mailbox, message))

    def retried(self, message: Message, mailbox: str, /, *, attempt: int, delay: float) -> None:
        """Record it."""
        self.records.append(Recorded("retried", mailbox, message, delay=delay))

    def postponed(self, message: Message, mailbox: str, /, *, actor: str, state: str) -> None:
        """Record it."""
        self.records.append(Recorded("postponed", mailbox, message))

    def resumed(self, message: Message, mailbox: str, /) -> None:
        """Record it."""
        self.records.append(Recorded("resumed", mailbox, message))

    def settled(self, message: Message, mailbox: str, /, *, outcome: Outcome) -> None:
        """Record it."""
        self.records.append(Recorded("settled", mailbox, message, outcome=outcome))

    # What a test asks.

    def clear(self) -> None:
        """Forget everything."""
        self.records.clear()
        self.receipts.clear()

    def sent(self, receipt: Receipt) -> Receipt:
        """Hold a publish to its receipt: as many mailboxes must have taken it as it says. Returns the receipt."""
        self.receipts.append(receipt)
        return receipt

    def handled(self, mailbox: str) -> list[Any]:
        """Return the bodies that were handled with success, in the order in which they were acknowledged."""
        return [
            record.message.body
            for record in self.records
            if record.point == "settled" and record.mailbox == mailbox and record.outcome == "acked"
        ]

    def findings(
        self, remaining: Mapping[str, Collection[str]] | None = None, *, prioritised: Collection[str] = ()
    ) -> list[Finding]:
        """Judge what has been recorded.

        Args:
            remaining: the ids of the messages that are still in a mailbox, by its name; without it nothing may be left.
            prioritised: the mailboxes that hand out by priority, beside those of which `running` knows it.
        """
        known = self._orders()
        return judge(
            self.records,
            self.receipts,
            remaining=remaining or {},
            by={**known.by, **self.by},
            prioritised={*known.prioritised, *prioritised},
        )

    def judge_by(self, orders: "Callable[[], Orders]") -> None:
        """Ask this how mailboxes hand out, whenever something is judged; `running` says it."""
        self._orders = orders

    def check(self, remaining: Mapping[str, Collection[str]] | None = None, *, prioritised: Collection[str] = ()) -> None:
        """Raise if there are findings; for the arguments see `findings`.

        Raises:
            HistoryError: naming them.
        """
        if found := self.findings(remaining, prioritised=prioritised):
            raise HistoryError(found)


def judge(
    records: Iterable[Recorded],
    receipts: Iterable[Receipt] = (),
    *,
    remaining: Mapping[str, Collection[str]],
    by: Mapping[str, Lane],
    prioritised: Collection[str] = (),
) -> list[Finding]:
    """Return what is wrong with a record, in the order in which it went wrong; what is lost comes last.

    Args:
        records: points, in the order in which they happened.
        receipts: of publishes that must have entered.
        remaining: see `History.findings`.
        by: gives the lane of a body, by mailbox.
        prioritised: see `History.findings`.
    """
    found: list[Finding] = []
    copies: dict[tuple[str, str], _Copies] = {}
    ready: dict[tuple[str, object], list[Rank]] = defaultdict(list)
    entries: Counter[str] = Counter()
    for place, record in enumerate(records):
        message, mailbox = record.message, record.mailbox
        copy = copies.setdefault((mailbox, message.id), _Copies(message))
        line = ready[mailbox, by[mailbox](message.body) if mailbox in by else None]

        def report(kind: Kind, text: str, *, mailbox: str = mailbox, message: Message = message) -> None:
            found.append(Finding(kind, mailbox, message.id, message, text))

        match record.point:
            case "entered":
                entries[message.id] += 1
                rank = (-message.priority if mailbox in prioritised else 0, place, message.id)
                copy.ready.append(rank)
                insort(line, rank)
            case "handed_out" | "postponed":
                if copy.ready or copy.delayed:
                    rank = copy.ready.pop(0) if copy.ready else copy.delayed.pop(0)
                    if line and line[0] < rank:
                        report("reordered", f"was handed out before message {line[0][2]}, which is ready and goes before it")
                    copy.in_hand.append(rank)
                    _leave(line, rank)
                elif copy.in_hand:
                    report("duplicated", "was handed out again while it was in hand")
                else:
                    report(*copy.surprise("was handed out"))
            case "retried" | "resumed":
                if not copy.in_hand:
                    report(*copy.surprise("went back"))
                elif record.delay:
                    copy.delayed.append(copy.in_hand.pop(0))  # Nobody says when that is over: it may be ready from then on.
                else:
                    insort(copy.ready, copy.in_hand[0])
                    insort(line, copy.in_hand.pop(0))
            case "settled":
                places = copy.in_hand or copy.ready or copy.delayed
                if places:
                    copy.has_ended = True
                    _leave(line, places.pop(0))
                else:
                    report(*copy.surprise("ended"))
    for receipt in receipts:
        missing = receipt.routed - entries[receipt.message_id]
        if missing > 0 and receipt.timer is None:
            text = f"is in {missing} mailboxes less than the {receipt.routed} that its receipt names"
            found.append(Finding("lost", "?", receipt.message_id, None, text))
    for (mailbox, message_id), copy in copies.items():
        if (copy.in_hand or copy.ready or copy.delayed) and message_id not in remaining.get(mailbox, ()):
            text = (
                "was handed out, and has neither ended nor gone back" if copy.in_hand else "entered, has not ended and is gone"
            )
            found.append(Finding("lost", mailbox, message_id, copy.message, text))
    return found


class _Copies:
    """The copies of one message in one mailbox: one at a time, unless it was published twice under one id.

    `ready`, `delayed`, `in_hand`: where each stands in the order of the mailbox. `has_ended`: one of them.
    """

    def __init__(self, message: Message) -> None:
        self.message = message
        self.ready: list[Rank] = []
        self.delayed: list[Rank] = []
        self.in_hand: list[Rank] = []
        self.has_ended = False

    def surprise(self, what: str) -> tuple[Kind, str]:
        """Return what to say of something that can only happen to a copy that is there."""
        return ("duplicated", f"{what} after it had ended") if self.has_ended else ("unexpected", f"{what}, and never entered")


def _leave(line: list[Rank], rank: Rank) -> None:
    place = bisect_left(line, rank)
    if place < len(line) and line[place] == rank:
        del line[place]
