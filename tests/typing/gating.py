"""What users write about gates and slots. Checked, never run.

Of refused lines see declaring.py.
"""

from typing import assert_type

from msgspec import Struct

from flowmesh import Autoscale, Breaker, GateStatistics, Limit, Mesh, Once, Rate, on


class Order(Struct, frozen=True):
    number: int
    customer: str


def customer(order: Order) -> str:
    return order.customer


mesh = Mesh("shop")


@mesh.actor(gates=[Rate(10, per=1.0)])
async def charge(order: Order) -> int:
    return order.number


@mesh.actor(
    concurrency=Autoscale(1, 32, target=0.5),
    gates=[
        Once(by=customer, ttl=60.0),
        Rate(10, per=1.0, burst=3, by=customer),
        Limit(2, by=customer, surplus="keep_newest"),
        Breaker(failures=5, within=60.0, pause=30.0, on=(OSError,), never=(FileNotFoundError,), by=customer),
    ],
)
def ship(order: Order) -> None: ...


class Desk:
    @on
    async def number(self, number: int) -> None: ...


desk = mesh.actor(Desk, gates=(Rate(1, per=1.0), Limit(1)))
polite = mesh.actor(gates=[Rate(1, per=1.0)])


async def use() -> None:
    assert_type(await charge.ask(Order(1, "ada")), int)
    assert_type(mesh.statistics().actors["charge"].gates, tuple[GateStatistics, ...])
    assert_type(mesh.statistics().actors["charge"].scaled, int)
    for gate in mesh.statistics().actors["charge"].gates:
        assert_type((gate.gate, gate.held, gate.dropped, gate.values, gate.condition), tuple[str, int, int, int, str | None])


# Refused

mesh.actor(gates=[60])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
mesh.actor(concurrency="many")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Limit(1, surplus="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Once()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
