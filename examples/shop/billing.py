"""Billing: charges for each order, one at a time for each customer. Others bind to `payments`."""

from desk import Order, orders
from msgspec import Struct

from flowmesh import Context, Part, Reject


class Payment(Struct, frozen=True):
    """What has been paid."""

    customer: str
    amount: float


billing = Part("billing")
payments = billing.exchange("payments")


@billing.actor(bind=orders.on("order.#"), by=lambda order: order.customer, concurrency=4)
async def charge(order: Order, ctx: Context) -> None:
    if order.amount <= 0:
        raise Reject(f"an amount of {order.amount:.2f}")
    ctx.publish(payments, Payment(order.customer, order.amount), key="paid")
