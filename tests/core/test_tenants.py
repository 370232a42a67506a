"""Lanes that somebody lives in: closed until the tenant is ready, and there as long as it is."""

from typing import Any

from flowmesh._core.aside import Tenant
from flowmesh._core.commits import Ack, Back, Publish, Purge, Settle, Withdraw
from flowmesh._core.entry import Entry, State
from flowmesh._core.mailbox import Mailbox
from tests.core.making import Shop


class Lodger(Tenant):
    """A tenant that counts how often its lane has become free."""

    def __init__(self) -> None:
        super().__init__()
        self.freed_often = 0

    def freed(self, now: float | None = None) -> None:
        self.freed_often += 1
        self.is_resting = True


class Houses:
    """Gives each value a tenant, and remembers them."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.tenants: dict[Any, Lodger] = {}
        self.asked: list[Any] = []
        self.line: list[Any] = []

    def lodge(self, value: Any) -> None:
        self.asked.append(value)
        tenant = self.tenants[value] = Lodger()
        self.mailbox.move_in(value, tenant)

    def make_way(self, value: Any) -> None:
        """Let whoever lives there move out, once."""
        if value in self.tenants:
            self.line.clear()
            del self.tenants[value]
            self.mailbox.move_out(value)

    def open(self, value: Any) -> None:
        self.tenants[value].is_ready = True
        self.mailbox.open_lane(self.mailbox.lanes[value])


class Street(Shop):
    """A mailbox whose copies fall into lanes by their bodies' first letters."""

    def __init__(self) -> None:
        super().__init__()
        self.box = self.mailbox("street")
        self.houses = Houses(self.box)

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.commit(Publish(self.message(body), (self.box,)))

    def hand_out(self) -> Entry | None:
        found = self.ledger.take(self.box, self.now, lambda entry: entry.message.body[0], lodging=self.houses)
        assert found is None or isinstance(found, Entry)
        return found

    def hand_out_all(self) -> list[str]:
        """Hand out what can be, acknowledge it, and return the bodies."""
        found: list[str] = []
        while (entry := self.hand_out()) is not None:
            found.append(entry.message.body)
            self.commit(Settle(self.box, entry, Ack()))
        return found


def test_closed_until_it_is_ready():
    """What comes meanwhile is set aside, and handed out in order; others go on."""
    street = Street()
    street.send("a1", "b1", "a2", "b2")
    assert street.hand_out() is None
    assert street.houses.asked == ["a", "b"]
    street.houses.open("b")
    assert street.hand_out_all() == ["b1", "b2"]
    street.houses.open("a")
    assert street.hand_out_all() == ["a1", "a2"]
    assert street.box.acked == 4


def test_it_is_told_when_nothing_is_left():
    """Once for each time that its lane is free, not while a copy is set aside; however the copy has left."""
    street = Street()
    street.send("a1", "a2")
    assert street.hand_out() is None
    street.houses.open("a")
    tenant = street.houses.tenants["a"]
    assert (tenant.freed_often, tenant.is_resting) == (0, None)
    first = street.hand_out()
    assert first is not None
    street.commit(Settle(street.box, first, Ack()))
    assert (tenant.freed_often, tenant.is_resting) == (0, False)
    second = street.hand_out()
    assert second is not None
    street.commit(Settle(street.box, second, Back(delay=5.0)))
    assert tenant.freed_often == 0, "it awaits its retry"
    street.commit(Withdraw(street.box, second))
    assert (tenant.freed_often, tenant.is_resting) == (1, True)
    assert street.houses.asked == ["a"]


def test_the_lane_stays_while_it_lives_there():
    """The next copy meets the same tenant; when it has moved out, the next one gets another."""
    street = Street()
    street.houses.lodge("a")
    street.houses.open("a")
    street.send("a1")
    assert street.hand_out_all() == ["a1"]
    assert "a" in street.box.lanes
    street.box.move_out("a")
    assert "a" not in street.box.lanes
    street.send("a2")
    assert street.hand_out() is None
    assert street.houses.asked == ["a", "a"]


def test_moving_out_lets_the_next_look():
    """Copies that were set aside for one that moves out are looked at again, by whoever is next."""
    street = Street()
    street.send("a1", "a2")
    assert street.hand_out() is None
    street.box.move_out("a")
    assert street.hand_out() is None
    assert street.houses.asked == ["a", "a"]
    street.houses.open("a")
    assert street.hand_out_all() == ["a1", "a2"]


def test_closed_under_a_copy_that_is_on_its_way():
    """A copy that was put back in line before its lane was closed is set aside, and keeps its place."""
    street = Street()
    street.houses.lodge("a")
    street.houses.open("a")
    street.send("a1", "a2")
    entry = street.hand_out()
    assert entry is not None
    assert street.hand_out() is None
    street.commit(Settle(street.box, entry, Back()))
    street.houses.tenants["a"].is_ready = False
    assert street.hand_out() is None
    assert entry.state is State.ASIDE
    street.houses.open("a")
    assert street.hand_out_all() == ["a1", "a2"]


def test_moving_out_under_a_copy_that_is_on_its_way():
    """Whoever moves out before its next copy is handed out leaves it, and those behind it, to the next, in their order."""
    street = Street()
    street.send("a1", "a2", "a3")
    assert street.hand_out() is None
    street.houses.open("a")
    first = street.hand_out()
    assert first is not None
    street.houses.line.append("b")
    street.commit(Settle(street.box, first, Ack()))
    assert street.hand_out() is None
    assert street.houses.asked == ["a", "a"]
    assert street.box.statistics(0.0, 0.0).ready == 2
    street.houses.open("a")
    assert street.hand_out_all() == ["a2", "a3"]


def test_purged_while_it_is_closed():
    """The copies end; the lane stays, for its tenant is still there."""
    street = Street()
    street.send("a1", "a2")
    assert street.hand_out() is None
    street.commit(Purge(street.box))
    assert street.box.purged == 2
    street.houses.open("a")
    assert street.houses.tenants["a"].is_resting
    street.send("a3")
    assert street.hand_out_all() == ["a3"]
