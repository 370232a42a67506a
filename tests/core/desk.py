"""A desk: a mailbox whose copies are gathered, in batches or as the latest of a burst, as a worker would."""

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

from flowmesh._core.batches import Batches
from flowmesh._core.commits import Purge, Withdraw
from flowmesh._core.debouncing import Latest
from flowmesh._core.gates import Gates
from flowmesh._core.mailbox import Mailbox
from flowmesh.message import Message
from flowmesh.policies import Batch, Debounce, Gate
from tests.core.making import WALL_OFFSET, Asked, Shop

__all__ = ["OPERATIONS", "Desk"]

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "ask", "put_ttl"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["take", "drain", "gather", "purge", "give_up"]), st.just(0)),
        st.tuples(st.sampled_from(["ack", "back", "later", "withdraw", "pass"]), st.integers(0, 5)),
    ),
    max_size=40,
)
"""What may happen at a desk, with how much, how long or which; see `Desk.do`."""


class Desk:
    """The mailbox `box` of a `shop`, and what is `gathered` of it, past its `gates`, if it has any.

    `freed`: how often there may have been something due.
    """

    def __init__(self, rule: Batch | Debounce, *, gates: Iterable[Gate] = (), **options: Any) -> None:
        self.shop = Shop()
        self.box: Mailbox = self.shop.mailbox("desk", **options)
        self.rule = rule
        self.freed = 0
        self.asks: list[Asked] = []
        ledger = self.shop.ledger
        self.gates = Gates(gates, body_of=lambda entry: entry.message.body, slots=1)
        self.gathered: Any = (
            Batches(rule, ledger, self.box, self._free, self.gates)
            if isinstance(rule, Batch)
            else Latest(rule, ledger, self.box, self._free)
        )
        self._steps: dict[str, Callable[[int], object]] = {
            "put": lambda body: self.shop.put(self.box, body),
            "put_ttl": lambda body: self.shop.put(self.box, body, ttl=3.0),
            "ask": lambda body: self.asks.append(self.shop.ask(self.box, body)),
            "gather": lambda _: self.gather(),
            "purge": lambda _: self.shop.commit(Purge(self.box)),
            "give_up": lambda _: self.shop.ledger.give_up(self.shop.prepare(Purge(self.box))),
            "withdraw": self._withdraw,
            "pass": lambda seconds: self.shop.pass_time(float(seconds)),
        }

    def _free(self) -> None:
        self.freed += 1

    def _withdraw(self, number: int) -> None:
        if self.asks:
            self.shop.commit(Withdraw(self.box, self.asks[number % len(self.asks)]))

    def gather(self) -> None:
        """Look at what came."""
        while not self.gathered.has_full and (item := self.box.pop()) is not None:
            if isinstance(item, Message):
                item = self.box.adopt(item, self.box.popped - 1, item.timestamp - WALL_OFFSET)
            ledger, now = self.shop.ledger, self.shop.now
            if not ledger.has_lapsed(self.box, item, now) and ledger.admission.admit(self.box, self.gates, item, now):
                value = None if self.rule.by is None else self.rule.by(item.message.body)
                item.lane = (self.gathered, value)
                self.gathered.add(item, self.shop.now, len(str(item.message.body)))
        self.gathered.give_way(self.shop.now)
        self.box.refresh()

    def take(self, *, everything: bool = False) -> Any:
        """Look at what came, and lease what is due."""
        self.gather()
        return self.gathered.hand_out(self.shop.now, everything=everything)

    def do(self, step: str, amount: int) -> None:
        """Carry out one of the OPERATIONS that do not hand out or settle; nothing for those."""
        if step in self._steps:
            self._steps[step](amount)
