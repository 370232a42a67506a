"""The hash exchange while a mesh runs: one mailbox for each key, by weight, behind and before other exchanges."""

from collections import Counter

import pytest

from flowmesh import Mesh, Part
from flowmesh.errors import InvalidBinding, PreconditionFailed

pytestmark = pytest.mark.anyio


async def test_messages_of_a_key_go_to_one_actor():
    """Each key has its actor, all keys have one, and every actor has some; in the order of publishing."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "hash")
    seen: dict[str, list[tuple[str, int]]] = {"one": [], "two": []}

    @mesh.actor(bind=orders.on("1"))
    async def one(body: tuple[str, int]) -> None:
        seen["one"].append(body)

    @mesh.actor(bind=orders.on("1"))
    async def two(body: tuple[str, int]) -> None:
        seen["two"].append(body)

    async with mesh:
        for number in range(3):
            for customer in range(30):
                receipt = await orders.publish((f"c{customer}", number), f"c{customer}")
                assert receipt.routed == 1
        await mesh.idle()
    keys = {actor: {key for key, _ in bodies} for actor, bodies in seen.items()}
    assert keys["one"].isdisjoint(keys["two"])
    assert len(keys["one"] | keys["two"]) == 30
    assert min(len(found) for found in keys.values()) > 5
    for bodies in seen.values():
        assert [number for _, number in bodies] == sorted(number for _, number in bodies)


async def test_weights_share_the_keys():
    """A mailbox bound with three times the weight gets about three times the keys."""
    mesh = Mesh("shop")
    orders, small, large = mesh.exchange("orders", "hash"), mesh.mailbox("small"), mesh.mailbox("large")
    orders.bind(small, "1")
    orders.bind(large, "3")
    async with mesh:
        await orders.publish_many([(None, f"key-{number}") for number in range(2000)])
        assert 1400 < large.statistics().ready < 1600
        assert small.statistics().ready == 2000 - large.statistics().ready


async def test_a_mailbox_that_goes_leaves_its_keys_to_the_others():
    """After deleting one mailbox only its keys go elsewhere, and the cached routes with them."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "hash")
    boxes = [mesh.mailbox(name) for name in "abc"]
    for box in boxes:
        orders.bind(box, "1")
    keys = [f"key-{number}" for number in range(100)]

    async def places() -> dict[str, str]:
        found: dict[str, str] = {}
        for key in keys:
            await orders.publish(None, key)
            for box in boxes:
                if box.purge():
                    found[key] = box.name
        return found

    async with mesh:
        before = await places()
        assert await places() == before
        assert set(before.values()) == {"a", "b", "c"}
        boxes[1].delete()
        after = await places()
        assert "b" not in after.values()
        assert all(after[key] == place for key, place in before.items() if place != "b")


async def test_between_other_exchanges():
    """Behind a topic exchange it spreads what comes through; an exchange that is bound to it takes a share of its own."""
    mesh = Mesh("shop")
    orders, spread, copies = (
        mesh.exchange("orders", "topic"),
        mesh.exchange("spread", "hash"),
        mesh.exchange("copies", "fanout"),
    )
    a, b, c = (mesh.mailbox(name) for name in "abc")
    orders.bind(spread, "order.#")
    spread.bind(a, "1")
    spread.bind(copies, "1")
    copies.bind(b)
    copies.bind(c)
    async with mesh:
        routed = Counter[int]()
        for number in range(40):
            routed[(await orders.publish(None, f"order.{number}")).routed] += 1
        assert (await orders.publish(None, "other")).routed == 0
        assert set(routed) == {1, 2}
        assert a.statistics().ready == routed[1]
        assert b.statistics().ready == c.statistics().ready == routed[2]


async def test_an_alternate_takes_what_an_empty_one_cannot_place():
    """Without bindings the alternate gets the message; with one, never."""
    mesh = Mesh("shop")
    orders, rest = mesh.exchange("orders", "hash", alternate="rest"), mesh.exchange("rest", "fanout")
    box, others = mesh.mailbox("box"), mesh.mailbox("others")
    rest.bind(others)
    async with mesh:
        await orders.publish(None, "k")
        orders.bind(box, "1")
        await orders.publish(None, "k")
        assert (box.statistics().ready, others.statistics().ready) == (1, 1)


async def test_by_a_header():
    """With a header as the argument, messages of one tenant stay together whatever their keys."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "hash", arguments={"hash-header": "tenant"})
    boxes = [mesh.mailbox(name) for name in "abc"]
    for box in boxes:
        orders.bind(box, "1")
    async with mesh:
        for tenant in range(20):
            for key in ("x", "y", "z"):
                await orders.publish(tenant, key, headers={"tenant": tenant})
            assert sorted(box.purge() for box in boxes) == [0, 0, 3]
        assert orders.core.routes == {}


async def test_a_bad_weight_is_refused_where_it_is_written():
    """bind, on and actor(bind=) raise InvalidBinding, which names what was given."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders", "hash"), mesh.mailbox("box")
    with pytest.raises(InvalidBinding, match=r"is a weight.*not ''.*share of 'box'"):
        orders.bind(box)
    with pytest.raises(InvalidBinding, match=r"not 'order\.#'"):
        orders.on("order.#")
    part = Part("billing")
    with pytest.raises(InvalidBinding, match="not '0'"):
        part.exchange("split", "hash").bind(part.mailbox("box"), "0")


async def test_arguments_are_kept_by_a_part():
    """What a part declares is declared in its mesh with its arguments; another mesh thing of that name must be equal."""
    part, mesh = Part("billing"), Mesh("shop")
    split = part.exchange("split", "hash", arguments={"hash-header": "tenant"})
    split.bind(part.mailbox("box"), "1")
    mesh.add(part)
    async with mesh:
        assert mesh.exchange("split", "hash", arguments={"hash-header": "tenant"}) is not None
        (declared,) = mesh.topology().exchanges
        assert (declared.type, declared.arguments) == ("hash", {"hash-header": "tenant"})
        with pytest.raises(PreconditionFailed, match="its arguments is"):
            mesh.exchange("split", "hash", arguments={"hash-header": "region"})
        assert (await split.publish(None, headers={"tenant": 1})).routed == 1
