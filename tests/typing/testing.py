"""The test kit, as both checkers see it. Checked, never run."""

from typing import Any, assert_type

from flowmesh import Message, Part, Receipt, Retry
from flowmesh.mesh import Mesh
from flowmesh.testing import Dead, Finding, History, Probe, Received, Running, VirtualClock, explore, running
from flowmesh.testing.plugin import RunningMesh

mesh = Mesh("shop")


class Order:
    id: int


async def runs(running_mesh: RunningMesh) -> None:
    async with running(mesh, dead_letters=[Dead("charge", "rejected", Order)], history=History(), wall=0.0, grace=1.0) as time:
        assert_type(time, Running)
        assert_type(time.clock, VirtualClock)
        assert_type(await time.advance(1.0), None)
    async with running(mesh, dead_letters="any", leftovers="keep", provide={Order: Order()}):
        pass
    async with running_mesh(mesh) as time:
        assert_type(time, Running)
    running(mesh, dead_letters="all")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    running(mesh, graze=1.0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Dead("charge", "tired")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def is_first(order: Order) -> bool:
    return order.id == 1


async def probes() -> None:
    probe = Probe(mesh, "probe", bind=mesh.exchange("orders").on("order"), retry=Retry(3), concurrency=2)
    Probe(Part("part"), "probe")
    received = await probe.expect(Order, within=5.0)
    assert_type(received, Received[Order])
    assert_type(received.body.id, int)
    assert_type(received.message, Message)
    assert_type(await probe.expect("text"), Received[str])
    assert_type(await probe.expect(is_first), Received[Any])
    await probe.expect(lambda body: body.id == 1)
    assert_type(await probe.expect_all(Order, "text"), list[Received[Any]])
    assert_type(await probe.expect_none(within=1.0), None)
    received.reply(1)
    probe.answers(OSError(), times=2)
    await probe.expect(Order, 5.0)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


def histories(receipt: Receipt) -> None:
    history = History(by={"charge": lambda body: body.id})
    assert_type(history.sent(receipt), Receipt)
    assert_type(history.findings(), list[Finding])
    mesh.configure(observers=[history])


async def a_test() -> None:
    pass


assert_type(explore(a_test, seeds=200), int)
explore(a_test, seeds=range(10), seed=3, backend="trio", autojump=False)
explore(a_test, backend="curio")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
