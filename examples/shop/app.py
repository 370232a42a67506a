"""An application of several modules: each brings a part, this one puts them together. No module imports the mesh.

A day of orders goes through three parts: `desk` takes them, `billing` charges for them, `letters` writes to the customer.
`billing` is bound to an exchange of `desk`, and `letters` to one of `billing`; in which order they are added does not matter.

    flowmesh run examples/shop/app.py
"""

from billing import billing
from desk import Order, desk, orders
from letters import letters

from flowmesh import ActorContext, Mesh

mesh = Mesh("shop")
for part in (letters, billing, desk):
    mesh.add(part)


@mesh.source
async def day(ctx: ActorContext) -> None:
    """What customers do in a day; when all of it has been dealt with, the shop closes."""
    for number, customer, amount in [(1, "ada", 30.0), (2, "bob", 4.5), (3, "eve", -1.0), (4, "ada", 12.0)]:
        await orders.publish(Order(number, customer, amount), f"order.{customer}")
    await mesh.idle()
    ctx.log.info("%d orders could not be charged", len(mesh.dead_letters))
    mesh.stop()
