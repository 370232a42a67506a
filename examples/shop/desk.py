"""The desk: where orders come in. Others bind to `orders`."""

from msgspec import Struct

from flowmesh import Part


class Order(Struct, frozen=True):
    """What a customer wants to pay."""

    number: int
    customer: str
    amount: float


desk = Part("desk")
orders = desk.exchange("orders", "topic")


@desk.actor(bind=orders.on("order.#"))
async def register(order: Order) -> None:
    print(f"order {order.number} of {order.customer} is registered")
