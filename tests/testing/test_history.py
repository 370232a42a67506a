"""The history checker finds each kind of fault where it is planted, and finds nothing in what a mesh may do."""

from collections.abc import Callable, Collection

import anyio
import pytest

from flowmesh import Limit, MailboxOptions, Mesh, Message, Receipt
from flowmesh._core.mailbox import Mailbox as CoreMailbox
from flowmesh.testing import Finding, History, HistoryError
from flowmesh.testing.history import Kind, Recorded, judge
from flowmesh.testing.plugin import RunningMesh

Story = list[Recorded]


def copy(number: int, *, priority: int = 0) -> Message:
    """A message whose id is its number."""
    return Message("", str(number), number).with_properties(priority=priority)


def entered(number: int, *, priority: int = 0) -> Recorded:
    """It has entered the mailbox."""
    return Recorded("entered", "box", copy(number, priority=priority))


def handed_out(number: int, *, priority: int = 0) -> Recorded:
    """It is handed out."""
    return Recorded("handed_out", "box", copy(number, priority=priority))


def retried(number: int, delay: float = 0.0) -> Recorded:
    """It goes back."""
    return Recorded("retried", "box", copy(number), delay=delay)


def postponed(number: int) -> Recorded:
    """A state machine wants it later."""
    return Recorded("postponed", "box", copy(number))


def resumed(number: int) -> Recorded:
    """It comes back."""
    return Recorded("resumed", "box", copy(number))


def settled(number: int) -> Recorded:
    """It has ended."""
    return Recorded("settled", "box", copy(number), outcome="acked")


def kinds(story: Story, prioritised: Collection[str] = ()) -> list[tuple[Kind, str]]:
    """The findings in a story, as kinds and ids."""
    found = judge(story, remaining={}, by={}, prioritised=prioritised)
    return [(finding.kind, finding.message_id) for finding in found]


# Faults


@pytest.mark.parametrize(
    "story, found",
    [
        ([entered(1)], [("lost", "1")]),
        ([entered(1), handed_out(1)], [("lost", "1")]),
        ([entered(1), handed_out(1), retried(1)], [("lost", "1")]),
        ([entered(1), entered(2), handed_out(1), settled(1)], [("lost", "2")]),
        ([entered(1), handed_out(1), handed_out(1), settled(1)], [("duplicated", "1")]),
        ([entered(1), handed_out(1), settled(1), handed_out(1)], [("duplicated", "1")]),
        ([entered(1), handed_out(1), settled(1), settled(1)], [("duplicated", "1")]),
        ([entered(1), handed_out(1), settled(1), retried(1)], [("duplicated", "1")]),
        ([handed_out(1)], [("unexpected", "1")]),
        ([settled(1)], [("unexpected", "1")]),
        ([retried(1)], [("unexpected", "1")]),
        ([entered(1), entered(2), handed_out(2), handed_out(1), settled(1), settled(2)], [("reordered", "2")]),
        (
            [entered(1), entered(2), handed_out(1), retried(1), handed_out(2), settled(2), handed_out(1), settled(1)],
            [("reordered", "2")],
        ),
        ([entered(1), postponed(1)], [("lost", "1")]),
        ([entered(1), postponed(1), handed_out(1), settled(1)], [("duplicated", "1")]),
        ([resumed(1)], [("unexpected", "1")]),
        ([entered(1), entered(2), postponed(2), settled(1), settled(2)], [("reordered", "2")]),
        (
            [entered(1), entered(2), postponed(1), resumed(1), handed_out(2), settled(2), handed_out(1), settled(1)],
            [("reordered", "2")],
        ),
    ],
)
def test_a_fault_is_found(story: Story, found: list[tuple[Kind, str]]):
    """Each planted fault is one finding of its kind, and names its copy."""
    assert kinds(story) == found


@pytest.mark.parametrize(
    "story",
    [
        [],
        [entered(1), handed_out(1), settled(1)],
        [entered(1), settled(1)],
        [entered(1), handed_out(1), retried(1), handed_out(1), settled(1)],
        [entered(1), entered(2), handed_out(1), retried(1, 5.0), handed_out(2), settled(2), handed_out(1), settled(1)],
        [entered(1), entered(2), handed_out(1), handed_out(2), settled(2), settled(1)],
        [entered(1), handed_out(1), settled(1), entered(1), handed_out(1), settled(1)],
        [entered(1), entered(1), handed_out(1), handed_out(1), settled(1), settled(1)],
        [entered(1), entered(2), settled(1), handed_out(2), settled(2)],
        [entered(1), entered(2), postponed(1), handed_out(2), settled(2), resumed(1), handed_out(1), settled(1)],
        [entered(1), postponed(1), settled(1)],
    ],
)
def test_what_may_happen_is_no_fault(story: Story):
    """A retry, several in hand, a replay, two publishes under one id, an end without a hand-out, a postponement."""
    assert kinds(story) == []


def test_priorities_count_where_the_mailbox_has_them():
    """A higher one goes first in such a mailbox, and is a fault in another; and the other way round."""
    by_priority = [
        entered(1),
        entered(2, priority=9),
        handed_out(2, priority=9),
        handed_out(1),
        settled(1),
        settled(2),
    ]
    by_place = [by_priority[index] for index in (0, 1, 3, 2, 4, 5)]
    assert kinds(by_priority, prioritised={"box"}) == kinds(by_place) == []
    assert kinds(by_priority) == [("reordered", "2")]
    assert kinds(by_place, prioritised={"box"}) == [("reordered", "1")]


def test_order_is_looked_at_within_a_lane():
    """Copies of another lane may overtake; one of the same lane may not."""
    story = [entered(number) for number in (1, 2, 3)] + [handed_out(2), handed_out(3), handed_out(1)]
    story += [settled(number) for number in (1, 2, 3)]
    found = judge(story, remaining={}, by={"box": lambda body: body % 2})
    assert [(finding.kind, finding.message_id) for finding in found] == [("reordered", "3")]


def test_what_is_still_there_is_not_lost():
    """A copy that lies in its mailbox is where it should be; in another mailbox it is not."""
    assert judge([entered(1)], remaining={"box": {"1"}}, by={}) == []
    assert [finding.kind for finding in judge([entered(1)], remaining={"other": {"1"}}, by={})] == ["lost"]


def test_a_receipt_is_held_to():
    """A publish that names more mailboxes than took it lost a copy; a deferred one names none yet."""
    history = History()
    assert history.sent(Receipt("", "1", 2)).routed == 2
    history.sent(Receipt("", "2", 0, timer_number=7))
    history.records += [entered(1), handed_out(1), settled(1)]
    (finding,) = history.findings()
    assert str(finding) == "lost: message 1 of mailbox '?' is in 1 mailboxes less than the 2 that its receipt names"
    history.clear()
    assert history.findings() == []


def test_the_error_tells_the_story():
    """It lists the findings, twenty at most, with body, mailbox and what happened."""
    history = History()
    history.records += [entered(number) for number in range(25)]
    with pytest.raises(HistoryError, match="25 faults") as caught:
        history.check()
    assert "lost: message 3 3 of mailbox 'box' entered, has not ended and is gone" in str(caught.value)
    assert "and 5 more" in str(caught.value)
    assert len(caught.value.findings) == 25
    assert all(isinstance(finding, Finding) for finding in caught.value.findings)


# Faults in a mesh


def losing(monkeypatch: pytest.MonkeyPatch, mesh: Mesh) -> None:
    """Let the mailbox lose its first ready copy just before the mesh stops."""
    box = mesh.mailbox("inbox").core
    real = box.peek
    monkeypatch.setattr(CoreMailbox, "peek", lambda self, limit: real(limit)[1:] if self is box else [])


@pytest.mark.parametrize("kind", ["lost", "duplicated", "unexpected"])
async def test_a_broken_mesh_is_found_out(running_mesh: RunningMesh, kind: Kind):
    """Where the mesh itself loses, repeats or invents something, `running` fails the test."""
    mesh, history = Mesh("m"), History()
    mesh.mailbox("inbox")
    breaks: dict[Kind, Callable[[Message], None]] = {
        "lost": lambda message: history.records.remove(Recorded("settled", "take", message, outcome="acked")),
        "duplicated": lambda message: history.handed_out(message, "take", actor="take", attempt=1),
        "unexpected": lambda message: history.handed_out(message, "elsewhere", actor="take", attempt=1),
    }

    @mesh.actor
    async def take(number: int) -> None:
        del number

    async def break_it() -> None:
        async with running_mesh(mesh, history=history):
            await take.tell(1)
            await mesh.idle()
            breaks[kind](history.records[0].message)

    with pytest.raises(HistoryError) as caught:
        await break_it()
    assert [finding.kind for finding in caught.value.findings] == [kind]


async def test_a_copy_that_vanishes_is_lost(running_mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch):
    """What entered, did not end and is not in its mailbox is lost, whatever the counters say."""
    mesh, history = Mesh("m"), History()
    losing(monkeypatch, mesh)

    async def send_two() -> None:
        async with running_mesh(mesh, history=history):
            await mesh.exchange("").publish("first", "inbox")
            await mesh.exchange("").publish("second", "inbox")

    with pytest.raises(HistoryError, match="'first' of mailbox 'inbox' entered, has not ended and is gone"):
        await send_two()


async def test_handled_gives_what_was_done(running_mesh: RunningMesh, mesh_history: History):
    """The bodies that were acknowledged, in that order; the fixture is attached to each mesh of the test."""
    mesh = Mesh("m")

    @mesh.actor
    async def take(number: int) -> None:
        del number

    async with running_mesh(mesh):
        for number in (3, 1, 2):
            mesh_history.sent(await take.tell(number))
        await mesh.idle()
    assert mesh_history.handled("take") == [3, 1, 2]


async def test_a_body_that_has_no_lane(running_mesh: RunningMesh, mesh_history: History):
    """A copy whose lane nobody can tell is a dead letter, and no fault of the order."""
    mesh = Mesh("m")

    @mesh.actor(by=lambda number: 10 // number)
    async def take(number: int) -> None:
        del number

    async with running_mesh(mesh, dead_letters="any"):
        for body in ("text", 0, 2, "3"):
            await mesh.exchange("").publish(body, "take")
    assert mesh_history.handled("take") == [2]


async def test_lanes_of_a_shared_mailbox_are_left_alone(running_mesh: RunningMesh, mesh_history: History):
    """Two actors that share a mailbox may see lanes differently: nothing is said about its order."""
    mesh = Mesh("m")
    inbox = mesh.mailbox("inbox")
    for name in ("one", "two"):

        async def take(number: int) -> None:
            del number

        mesh.actor(take, name=name, mailbox=inbox, by=lambda number: number % 2)
    async with running_mesh(mesh):
        for number in range(6):
            await mesh.exchange("").publish(number, "inbox")
    assert sorted(mesh_history.handled("inbox")) == list(range(6))


async def test_what_is_judged_by_hand_is_judged_as_at_the_end(running_mesh: RunningMesh, mesh_history: History):
    """Within the block and after it, the lanes of the actors and the priorities of the mailboxes are known."""
    mesh = Mesh()

    @mesh.actor(mailbox=MailboxOptions(priorities=True))
    async def ranked(number: int) -> None: ...

    @mesh.actor(by=lambda number: number % 2, concurrency=2)
    async def laned(number: int) -> None:
        await anyio.sleep(10 if number == 0 else 1)

    @mesh.actor(gates=[Limit(1, by=lambda number: number % 2)], concurrency=2)
    async def limited(number: int) -> None:
        await anyio.sleep(10 if number == 0 else 1)

    async with running_mesh(mesh) as time:
        ranked.pause()
        for number in range(4):
            await ranked.tell(number, priority=number)
            await laned.tell(number)
            await limited.tell(number)
        ranked.resume()
        await time.idle()
        assert [mesh_history.handled(name) for name in ("ranked", "laned")] == [[3, 2, 1, 0], [1, 3, 0, 2]]
        assert mesh_history.findings() == []
    assert mesh_history.findings() == []
