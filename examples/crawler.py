"""A crawler that is polite: every page once, and no more than ten requests a second.

`Once` drops a page that has been seen, `Rate` spaces the requests, and both are declared, not programmed. The site is served by
the example itself, on a port of this machine.

    python examples/crawler.py
"""

from itertools import pairwise

import anyio
from anyio.abc import ByteStream, SocketAttribute
from msgspec import Struct

from flowmesh import Context, Mesh, Once, Rate

SITE = {"/": "/tea /coffee", "/tea": "/ /mint", "/coffee": "/ /tea", "/mint": ""}
mesh = Mesh("crawler")
visits: list[tuple[float, str]] = []


class Page(Struct, frozen=True):
    """A page of the site."""

    port: int
    path: str


async def serve(client: ByteStream) -> None:
    async with client:
        path = (await client.receive()).decode().split()[1]
        await client.send(f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{SITE[path]}".encode())


@mesh.actor(gates=[Once(by=lambda page: page.path), Rate(10, per=1.0)], concurrency=4)
async def crawl(page: Page, ctx: Context) -> None:
    visits.append((anyio.current_time(), page.path))
    async with await anyio.connect_tcp("127.0.0.1", page.port) as site:
        await site.send(f"GET {page.path} HTTP/1.1\r\n\r\n".encode())
        answer = b"".join([part async for part in site]).decode()
    for path in answer.partition("\r\n\r\n")[2].split():
        ctx.tell(crawl, Page(page.port, path))


async def main() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        async with mesh:
            await crawl.tell(Page(listener.extra(SocketAttribute.local_port), "/"))
            await mesh.idle()
        group.cancel_scope.cancel()
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(visits)]
    print(*sorted(path for _, path in visits))
    dropped = crawl.mailbox.statistics().dropped
    print(f"{len(visits)} requests, {min(gaps):.1f} s apart or more; {dropped} links to pages that had been seen")


if __name__ == "__main__":
    anyio.run(main)
