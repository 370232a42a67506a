"""mesh.topology(): what is declared, bound and fed, read from the router itself at that moment."""

import json

import pytest

from flowmesh import Context, Mesh
from flowmesh.policies import MailboxOptions
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio


def shop() -> Mesh:
    """A small shop: a topic exchange with an alternate, a headers exchange, three actors, and two names not declared."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "topic", alternate="rest")
    docs = mesh.exchange("docs", "headers", internal=True)
    orders.bind(docs, "doc.#")

    @mesh.actor(bind=orders.on("order.*.placed"), mailbox=MailboxOptions(dead_letter="late", dead_letter_key="bill"))
    async def bill(body: str) -> None: ...

    archive = mesh.mailbox("archive")
    docs.bind(archive, arguments={"x-match": "any", "kind": "pdf"})

    async def first(body: str) -> None: ...

    async def second(body: str) -> None: ...

    mesh.actor(second, mailbox=archive)
    mesh.actor(first, mailbox=archive)
    return mesh


async def test_json():
    """The JSON says all exchanges but the default one, all mailboxes with their actors, and all bindings."""
    found = json.loads(shop().topology().json())
    assert found["exchanges"] == [
        {"name": "docs", "type": "headers", "alternate": None, "internal": True, "arguments": {}},
        {"name": "orders", "type": "topic", "alternate": "rest", "internal": False, "arguments": {}},
    ]
    assert [(each["name"], each["actors"]) for each in found["mailboxes"]] == [
        ("archive", ["first", "second"]),
        ("bill", ["bill"]),
    ]
    assert found["mailboxes"][1]["options"]["dead_letter"] == "late"
    bindings = [(each["source"], each["destination_type"], each["destination"], each["key"]) for each in found["bindings"]]
    assert bindings == [
        ("docs", "mailbox", "archive", ""),
        ("orders", "exchange", "docs", "doc.#"),
        ("orders", "mailbox", "bill", "order.*.placed"),
    ]
    assert found["bindings"][0]["arguments"] == {"kind": "pdf", "x-match": "any"}


async def test_mermaid():
    """The Mermaid chart draws nodes and edges, actors behind their mailboxes, and marks what is not declared."""
    text = shop().topology().mermaid()
    lines = text.splitlines()
    assert lines[0] == "flowchart LR"
    nodes: dict[str, str] = {}
    for line in lines[1:]:
        if "--" not in line and "-." not in line:
            name, label, _ = line.split('"')
            nodes[label] = name.strip().rstrip("[({")
    assert set(nodes) == {
        "orders (topic)",
        "docs (headers, internal)",
        "rest (not declared)",
        "late (not declared)",
        "archive",
        "bill",
        "first",
        "second",
    }
    assert f'    {nodes["orders (topic)"]} -->|"doc.#35;"| {nodes["docs (headers, internal)"]}' in lines
    assert f"    {nodes['archive']} --> {nodes['first']}" in lines
    assert f'    {nodes["orders (topic)"]} -.->|"alternate"| {nodes["rest (not declared)"]}' in lines


async def test_dot():
    """The DOT text is one digraph with the same nodes and edges."""
    text = shop().topology().dot()
    assert text.startswith("digraph topology {\n")
    assert text.endswith("}\n")
    for label in ("orders (topic)", "docs (headers, internal)", "archive", "bill", "first", "second", "late (not declared)"):
        assert f'label="{label}"' in text
    assert text.count(" -> ") == 8  # 3 bindings, 3 actors, an alternate, a dead-letter exchange


async def test_equal_topologies_give_equal_texts():
    """The order of declaration does not show."""
    assert shop().topology() == shop().topology()
    one, two = Mesh("one"), Mesh("two")
    for mesh, names in ((one, ("a", "b")), (two, ("b", "a"))):
        for name in names:
            mesh.exchange(f"x{name}").bind(mesh.mailbox(name), "k")
        mesh.exchange("xa").bind(mesh.mailbox("b"), "k")
    assert one.topology() == two.topology()
    assert one.topology().mermaid() == two.topology().mermaid()


async def test_read_at_the_moment():
    """What is bound, declared, stopped or deleted later shows in the next look, not in this one."""
    mesh = shop()
    before = mesh.topology()
    async with mesh:
        assert mesh.topology() == before
        orders, archive = mesh.exchange("orders"), mesh.mailbox("archive")
        orders.bind(archive, "doc")
        mesh.mailbox("bill").delete()
        after = mesh.topology()
    assert [(each.destination, each.key) for each in after.bindings] == [("archive", ""), ("docs", "doc.#"), ("archive", "doc")]
    assert [each.name for each in after.mailboxes] == ["archive"]
    assert [each.name for each in before.mailboxes] == ["archive", "bill"]


async def test_stopped_actor_is_not_drawn():
    """An actor that has been stopped feeds on nothing; its mailbox and bindings stay."""
    mesh = Mesh("shop")

    @mesh.actor(bind=mesh.exchange("orders").on("k"))
    async def work(body: str) -> None: ...

    async with mesh:
        assert mesh.topology().mailboxes[0].actors == ("work",)
        await work.stop()
        found = mesh.topology()
    assert (found.mailboxes[0].name, found.mailboxes[0].actors, len(found.bindings)) == ("work", (), 1)


async def test_empty_mesh():
    """A mesh in which nothing is declared has an empty topology in every form."""
    found = Mesh("shop").topology()
    assert found.mermaid() == "flowchart LR\n"
    assert json.loads(found.json()) == {"exchanges": [], "mailboxes": [], "bindings": []}
    assert found.dot().splitlines() == ["digraph topology {", "    rankdir=LR;", "}"]


async def test_rings_of_dead_letters():
    """A mailbox whose dead letters come back to it is on a ring; one that rejects when it is full breaks it."""
    mesh = Mesh("shop")
    again = mesh.exchange("again", "fanout")
    again.bind(mesh.mailbox("orders", MailboxOptions(dead_letter="again")))
    again.bind(mesh.mailbox("others", MailboxOptions(dead_letter="again", overflow="reject")))
    one, two = mesh.exchange("one", "topic"), mesh.exchange("two", "topic")
    one.bind(two, "#")
    two.bind(one, "#")
    assert [str(ring) for ring in mesh.topology().rings()] == ["exchange 'again' -> mailbox 'orders' -> exchange 'again'"]


async def test_rings_through_actors_that_have_been_seen():
    """Where an actor's turns send is known when they have asked, waited for room, or collected an output."""
    mesh = Mesh("shop")

    @mesh.actor
    async def a(number: int, ctx: Context) -> None:
        ctx.tell(b, number)

    @mesh.actor
    async def b(number: int) -> None:
        if number:
            await c.ask(0)

    @mesh.actor
    async def c(number: int, ctx: Context) -> None:
        ctx.tell(a, 0)

    assert mesh.topology().rings() == ()
    async with mesh:
        await a.tell(1)
        await settled()
        mesh.stop()
        (ring,) = mesh.topology().rings()
    kinds = [place for name in "abc" for place in (("actor", name), ("mailbox", "abca"["abc".index(name) + 1]))]
    assert list(ring.places) == kinds
    assert str(ring).startswith("actor 'a' -> mailbox 'b' -> actor 'b' -> mailbox 'c' -> ")
    assert [(send.actor, send.mailbox) for send in mesh.topology().sends] == [("a", "b"), ("b", "c"), ("c", "a")]
