"""What mailboxes and commits shall do, in the plainest words: lists that are sorted and searched, no counter that is kept.

The model follows DESIGN 5, not the code: each copy has one state, every number is found by counting, and the next copy is
found by looking at all of them.  Messages are unique within a mailbox (their histories differ), so they name copies.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

from msgspec.structs import replace

from flowmesh.message import Death, DeathReason, Message
from flowmesh.policies import MailboxOptions
from tests.core.making import WALL_OFFSET
from tests.core.reference import belongs

State = Literal["arriving", "ready", "leased", "delayed", "ended"]
REST: tuple[DeathReason, ...] = ("rejected", "failed", "delivery_limit", "malformed")


class Copy:
    """One copy. `bound`: a prepared commit will settle or end it. `aside`: looked at while its lane was busy."""

    def __init__(self, box: "Box", message: Message, now: float, asked: bool) -> None:
        self.box = box
        self.message = message
        self.asked = asked
        self.state: State = "arriving"
        self.bound = False
        self.aside = False
        self.lane: Any = None
        self.failures = self.handouts = 0
        self.place = -1
        self.due = 0.0
        self.rank = -message.properties.priority if box.options.priorities else 0
        limits = [message.properties.expires, None if box.options.ttl is None else now + box.options.ttl]
        self.expires = min((limit for limit in limits if limit is not None), default=float("inf"))

    def __repr__(self) -> str:
        return f"<{self.message.serial} in {self.box.name}: {self.state}{' bound' * self.bound}{' aside' * self.aside}>"


class Box:
    """One mailbox. `awaited`: senders stand in line for it."""

    def __init__(self, name: str, options: MailboxOptions, by: Callable[[Message], Any] | None = None) -> None:
        self.name = name
        self.options = options
        self.by = by
        self.copies: list[Copy] = []
        self.ever: Counter[str] = Counter()
        self.deleted = False
        self.awaited = False

    def having(self, *states: State) -> list[Copy]:
        """Copies in these states, by (rank, place)."""
        return sorted((copy for copy in self.copies if copy.state in states), key=lambda copy: (copy.rank, copy.place))

    def shown(self) -> list[Copy]:
        """What is ready and not bound by a prepared commit, in the order of hand-out."""
        return [copy for copy in self.having("ready") if not copy.bound]

    def line(self) -> list[Copy]:
        """What a consumer can be given, unless its lane turns out to be busy."""
        return [copy for copy in self.shown() if not copy.aside]

    def find(self, message: Message) -> Copy:
        (copy,) = [copy for copy in self.copies if copy.message == message]
        return copy

    def is_busy(self, lane: Any) -> bool:
        return any(copy.lane == lane for copy in self.having("leased", "delayed"))

    def free_lane(self, lane: Any) -> None:
        """The first that was set aside may be looked at again, unless the lane is held."""
        if lane is not None and not self.is_busy(lane):
            for copy in [copy for copy in self.shown() if copy.aside and copy.lane == lane][:1]:
                copy.aside = False

    def end(self, copy: Copy, outcome: str) -> None:
        held = copy.state in ("leased", "delayed")
        copy.state = "ended"
        self.copies.remove(copy)
        self.ever[outcome] += 1
        if held:
            self.free_lane(copy.lane)


class Plan:
    """A prepared commit: what will happen, in order. Each step names itself for comparison with the real change."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self.notes: list[tuple[str, str]] = []
        self.counts: list[tuple[int, int]] = []
        self.burials: list[tuple[Box, Message]] = []


class Model:
    """All mailboxes. `routes`: the boxes that each exchange reaches; the default exchange routes by key.

    The exchange "split" reaches one of `shares`, by the hash of the key and these weights.
    """

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.routes: dict[str, list[str]] = {}
        self.shares: dict[str, int] = {}
        self.dead_letters = Box("mesh.dead_letters", MailboxOptions(capacity=2, overflow="drop_oldest"))
        self.places = 0

    def route(self, exchange: str, key: str) -> list[Box]:
        names = [key] if exchange == "" else self.routes.get(exchange, [])
        weights = {f"mailbox {name}": weight for name, weight in self.shares.items() if not self.boxes[name].deleted}
        if exchange == "split":
            names = [belongs(key.encode(), weights).removeprefix("mailbox ")] if weights else []
        return [box for box in self.boxes.values() if box.name in names and not box.deleted]

    # Preparing

    def refusing(self, wanted: Iterable[tuple[Box, bool]]) -> Box | None:
        """Return the first box that refuses one of these copies (box, nowait)."""
        coming: Counter[str] = Counter()
        for box, nowait in wanted:
            if box.options.overflow == "reject" or (box.options.overflow == "wait" and nowait):
                coming[box.name] += 1
                is_full = len(box.having("ready", "arriving")) + coming[box.name] > box.options.capacity
                if is_full or (nowait and box.awaited):
                    return box
        return None

    def publish(self, plan: Plan, boxes: list[Box], message: Message, now: float, *, asked: bool = False) -> None:
        taken = [self.enter(plan, box, message, now, asked=asked) for box in boxes]
        plan.counts.append((sum(taken), len(taken) - sum(taken)))

    def enter(self, plan: Plan, box: Box, message: Message, now: float, *, asked: bool = False) -> bool:
        copy = Copy(box, message, now, asked)
        is_full = len(box.shown()) + len(box.having("arriving")) >= box.options.capacity
        leaves_out = box.options.overflow == "drop_newest"
        drops = leaves_out or box.options.overflow == "drop_oldest"
        if is_full and drops and (leaves_out or not self._make_room(plan, copy, now)):
            self._leave_out(plan, copy, len(plan.steps), now)
            return False
        box.copies.append(copy)
        plan.steps.append(("enter", copy))
        return True

    def _make_room(self, plan: Plan, newcomer: Copy, now: float) -> bool:
        """Drop the next in order; False if that is the newcomer. Equal ones go in the order in which they entered."""
        box = newcomer.box
        own = [step[1] for step in plan.steps if step[0] == "enter" and step[1].box is box]
        for copy in sorted([*box.line(), *own, newcomer], key=lambda copy: copy.rank):
            if copy is newcomer and (box.line() or own):
                return False
            if copy in own:
                number = plan.steps.index(("enter", copy))
                box.copies.remove(copy)
                plan.steps.pop(number)
                self._leave_out(plan, copy, number, now)
                if box is self.dead_letters:
                    plan.notes.append(("evicted", box.name))
                return True
            if copy is not newcomer:
                self._evict(plan, copy, now)
                return True
        aside = [copy for copy in box.shown() if copy.aside]
        if aside and newcomer.rank < aside[0].rank:
            raise AssertionError("the machine's laned mailboxes have no priorities")
        if aside:
            self._evict(plan, aside[0], now)
        return True

    def _evict(self, plan: Plan, copy: Copy, now: float) -> None:
        if copy.box is self.dead_letters:
            plan.notes.append(("evicted", copy.box.name))
            self.bind(plan, copy, "dropped")
        else:
            self.die(plan, copy, "expired" if copy.expires <= now else "maxlen", now)

    def _leave_out(self, plan: Plan, copy: Copy, number: int, now: float) -> None:
        buried = copy.box.options.dead_letter is not None and not copy.asked
        plan.steps.insert(number, ("leave out", copy, "dead" if buried else "dropped"))
        if buried:
            self._bury(plan, copy, "maxlen", "", now)

    def bind(self, plan: Plan, copy: Copy, outcome: str) -> None:
        """Plan that a copy ends."""
        copy.bound = True
        if copy.state == "ready":
            copy.aside = False
            copy.box.free_lane(copy.lane)
        plan.steps.append(("end", copy, outcome))

    def die(self, plan: Plan, copy: Copy, reason: DeathReason, now: float, detail: str = "") -> None:
        if copy.asked:
            self.bind(plan, copy, {"expired": "expired", "maxlen": "dropped"}.get(reason, "acked"))
        elif reason not in REST and copy.box.options.dead_letter is None:
            self.bind(plan, copy, "expired" if reason == "expired" else "dropped")
        else:
            self.bind(plan, copy, "dead")
            self._bury(plan, copy, reason, detail, now)

    def _bury(self, plan: Plan, copy: Copy, reason: DeathReason, detail: str, now: float) -> None:
        options = copy.box.options
        if options.dead_letter is not None and (options.dead_letter == "" or options.dead_letter in self.routes):
            exchange = str(options.dead_letter)
            key = copy.message.key if options.dead_letter_key is None else options.dead_letter_key
            dead = died(copy.message, copy.box.name, reason, detail, exchange, key, now + WALL_OFFSET)
            targets = [box for box in self.route(exchange, key) if not is_cycle(dead, box.name)]
            plan.notes += [("cut", box.name) for box in self.route(exchange, key) if box not in targets]
            plan.burials += [(box, dead) for box in targets]
            if targets:
                return
        message = copy.message
        dead = died(message, copy.box.name, reason, detail, message.exchange, message.key, now + WALL_OFFSET)
        plan.notes.append(("buried", copy.box.name))
        plan.burials.append((self.dead_letters, dead))

    def finish(self, plan: Plan, now: float) -> Plan:
        """Let the dead in, and those that they push out, and so on."""
        while plan.burials:
            box, message = plan.burials.pop(0)
            self.enter(plan, box, message, now)
        return plan

    def back(self, plan: Plan, copy: Copy, now: float, failures: int, handouts: int) -> None:
        """Plan that a leased or delayed copy is ready again."""
        if copy.box.deleted:
            self.bind(plan, copy, "purged")
        elif copy.expires <= now:
            self.die(plan, copy, "expired", now)
        else:
            copy.bound = True
            plan.steps.append(("return", copy, failures, handouts))

    # Ending a preparation

    def apply(self, plan: Plan) -> None:
        for kind, copy, *details in plan.steps:
            box = copy.box
            match kind:
                case "leave out":
                    box.ever["entered"] += 1
                    box.ever[details[0]] += 1
                case "enter":
                    box.ever["entered"] += 1
                    self._show(copy)
                case "end":
                    box.end(copy, details[0])
                case "return":
                    copy.failures, copy.handouts = details
                    held = copy.lane
                    self._show(copy)
                    box.free_lane(held)
                case "delay":
                    copy.state = "delayed"
                    copy.bound = False
                    copy.due, copy.failures, copy.handouts = details
                case _:
                    raise AssertionError(kind)

    def _show(self, copy: Copy) -> None:
        copy.state, copy.bound = "ready", False
        if copy.place < 0:
            self.places += 1
            copy.place = self.places
        if copy.box.deleted:
            copy.box.end(copy, "purged")

    def give_up(self, plan: Plan) -> None:
        for kind, copy, *_ in plan.steps:
            copy.bound = False
            if kind == "enter":
                copy.box.copies.remove(copy)
            elif copy.box.deleted and copy.state in ("ready", "delayed"):
                copy.box.end(copy, "purged")

    # Handing out

    def take(self, box: Box, now: float) -> tuple[Copy | None, list[Plan]]:
        """Lease the next; also the commits that this took, for those that had expired."""
        plans: list[Plan] = []
        while line := box.line():
            copy = line[0]
            if copy.expires <= now:
                plan = Plan()
                self.die(plan, copy, "expired", now)
                self.apply(self.finish(plan, now))
                plans.append(plan)
                continue
            if box.by is not None and copy.lane is None:
                copy.lane = box.by(copy.message)
            if copy.lane is not None and box.is_busy(copy.lane):
                copy.aside = True
                continue
            copy.state = "leased"
            return copy, plans
        return None, plans


def died(message: Message, mailbox: str, reason: DeathReason, detail: str, exchange: str, key: str, wall: float) -> Message:
    """RabbitMQ's x-death, as its documentation tells it."""
    history = list(message.deaths)
    same = [death for death in history if (death.mailbox, death.reason) == (mailbox, reason)]
    if same:
        history.remove(same[0])
        newest = replace(same[0], count=same[0].count + 1, detail=detail)
    else:
        order = sum(death.count for death in history)
        keys, ttl = (message.key,), message.properties.ttl
        newest = Death(mailbox, reason, 1, wall, message.exchange, keys, ttl, detail, order)
    return replace(message, exchange=exchange, key=key).with_properties(
        deaths=(newest, *history), ttl=None, expires=None, deadline=None
    )


def is_cycle(dead: Message, mailbox: str) -> bool:
    """It has died there, and since then only of what nobody decided."""
    names = [death.mailbox for death in dead.deaths]
    if mailbox not in names:
        return False
    since = dead.deaths[: names.index(mailbox) + 1]
    return all(death.reason in ("expired", "maxlen", "delivery_limit") for death in since)
