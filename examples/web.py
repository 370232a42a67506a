"""A web application: FastAPI runs the mesh for as long as it lives itself; requests tell and ask its actors.

An upload is answered at once and counted later; how many words there are so far is asked. If the mesh stops by itself, every
later request fails with MeshStopped from its cause: let the server's supervisor restart the process.

    pip install fastapi uvicorn
    uvicorn web:app --app-dir examples
"""

from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from msgspec import Struct

from flowmesh import MailboxFull, MailboxOptions, Mesh

mesh = Mesh("words")
counts: dict[str, int] = {}


class Text(Struct, frozen=True):
    """A text of a user."""

    user: str
    words: str


@mesh.actor(mailbox=MailboxOptions(capacity=1000, overflow="reject"))
async def count(text: Text) -> None:
    counts[text.user] = counts.get(text.user, 0) + len(text.words.split())


@mesh.actor
async def total(user: str) -> int:
    return counts.get(user, 0)


app = FastAPI(lifespan=mesh.lifespan)


@app.post("/texts/{user}", status_code=202)
async def upload(user: str, words: Annotated[str, Body()]) -> str:
    try:
        receipt = await count.tell(Text(user, words))
    except MailboxFull as error:
        raise HTTPException(503, "too much to count: try again later") from error
    return receipt.message_id


@app.get("/texts/{user}")
async def words_of(user: str) -> int:
    await mesh.idle()
    return await total.ask(user, timeout=2.0)
