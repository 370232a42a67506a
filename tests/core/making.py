"""What the tests of mailboxes and ledger make again and again."""

import itertools
from typing import Any, ClassVar

from msgspec import field

from flowmesh._core.commits import Commit, Intent, Publish, Settle, Verdict
from flowmesh._core.entry import Entry, Outcome
from flowmesh._core.ledger import Ledger
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.router import Router
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions

WALL_OFFSET = 1000.0


class Asked(Entry, eq=False):
    """A copy that somebody waits for: it remembers what it was told."""

    told: list[Outcome] = field(default_factory=list[Outcome])
    asked: ClassVar[bool] = True

    def ended(self, outcome: Outcome) -> None:
        self.told.append(outcome)


class Shop:
    """A ledger with its router, and a clock that the test moves."""

    def __init__(self) -> None:
        self.router = Router()
        self.ledger = Ledger(self.router)
        self.ledger.wall_offset = WALL_OFFSET
        self.now = 100.0
        self._serials = itertools.count(1)

    def mailbox(self, name: str, **options: Any) -> Mailbox:
        mailbox = self.router.declare_mailbox(name, MailboxOptions(**options))
        mailbox.is_open = True
        mailbox.refresh()
        return mailbox

    def bind(self, exchange: str, *mailboxes: Mailbox, type: str = "fanout") -> None:
        for mailbox in mailboxes:
            self.router.bind(self.router.declare_exchange(exchange, type), mailbox)

    def message(self, body: Any = None, *, exchange: str = "", key: str = "", **properties: Any) -> Message:
        serial = next(self._serials)
        message = Message("m-", serial, serial if body is None else body, exchange, key, self.now + WALL_OFFSET)
        if (ttl := properties.get("ttl")) is not None:
            properties["expires"] = self.now + ttl
        return message.with_properties(**properties) if properties else message

    def commit(self, *intents: Intent) -> Commit:
        return self.ledger.commit(*intents, now=self.now)

    def prepare(self, *intents: Intent) -> Commit:
        return self.ledger.prepare(*intents, now=self.now)

    def apply(self, commit: Commit) -> None:
        self.ledger.apply(commit, self.now)

    def put(self, mailbox: Mailbox, *bodies: Any, **properties: Any) -> list[Message]:
        """Publish to one mailbox, one commit each."""
        messages = [self.message(body, key=mailbox.name, **properties) for body in bodies]
        for message in messages:
            self.commit(Publish(message, (mailbox,)))
        return messages

    def ask(self, mailbox: Mailbox, body: Any = None, **properties: Any) -> Asked:
        made: list[Asked] = []

        def make(message: Message) -> Entry:
            made.append(Asked(message, self.now))
            return made[0]

        self.commit(Publish(self.message(body, key=mailbox.name, **properties), (mailbox,), make_entry=make))
        return made[0]

    def take(self, mailbox: Mailbox, lane_of: Any = None) -> Entry | None:
        """Lease the next copy, as an entry."""
        item = self.ledger.take(mailbox, self.now, lane_of)
        if isinstance(item, Message):
            return mailbox.lease_plain(item, mailbox.popped - 1, item.timestamp - WALL_OFFSET)
        return item

    def take_all(self, mailbox: Mailbox, lane_of: Any = None) -> list[Entry]:
        return list(iter(lambda: self.take(mailbox, lane_of), None))

    def settle(self, mailbox: Mailbox, entry: Entry | None, verdict: Verdict) -> Commit:
        assert entry is not None
        return self.commit(Settle(mailbox, entry, verdict))

    def pass_time(self, seconds: float) -> list[Commit]:
        """Let time pass and do what is due by then."""
        self.now += seconds
        commits: list[Commit] = []
        while (timer := self.ledger.timers.pop_due(self.now, self.now + WALL_OFFSET)) is not None:
            if callable(timer.action):
                timer.action(self.now)
            else:
                commits.append(self.commit(self.ledger.intent_of(timer)))
        return commits


def bodies(items: Any) -> list[Any]:
    """Return the bodies of messages or entries."""
    return [item.message.body if isinstance(item, Entry) else item.body for item in items]


def dead_bodies(shop: Shop) -> list[Any]:
    """Return the bodies of the dead letters."""
    return bodies(shop.ledger.dead_letters.peek(1000))


def numbers(mailbox: Mailbox) -> dict[str, int]:
    """Return the counts of a mailbox that are not zero."""
    names = ["ready", "leased", "delayed", "entered", "acked", "dead", "expired", "dropped", "withdrawn", "purged"]
    found = {name: getattr(mailbox, name) for name in names}
    assert found["entered"] == sum(found.values()) - found["entered"]
    return {name: count for name, count in found.items() if count}
