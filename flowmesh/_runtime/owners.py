"""Whose saved state it is, as a store knows it: a kind and a text.

The state of an actor is kept by its name.  That of an instance for one value of `by=` is kept by the name and the value, which
has to be a lasting one.
"""

from typing import Final

import msgspec

from flowmesh._core.commits import Owner
from flowmesh._core.entry import NO_LANE
from flowmesh._runtime.lasting import LASTING, is_lasting, packed, unpacked
from flowmesh.errors import Unencodable

__all__ = ["SAVED", "SAVED_OF", "key_of", "owner_of"]

SAVED: Final = "saved"
"""The kind under which the state of actors is kept."""
SAVED_OF: Final = "saved of"
"""The kind under which that of instances is."""


def key_of(owner: Owner) -> tuple[str, str]:
    """Return the kind and the key under which a state is kept.

    Raises:
        Unencodable: the value of its instance would not come back as what it is.
    """
    if owner.value is NO_LANE:
        return SAVED, owner.actor
    if not is_lasting(owner.value):
        raise Unencodable(f"the state of actor {owner.actor!r} for {owner.value!r} cannot be stored: let by= return {LASTING}")
    return SAVED_OF, msgspec.msgpack.encode((owner.actor, packed(owner.value))).hex()


def owner_of(kind: str, key: str) -> Owner:
    """Return whose state is kept under this kind and key.

    Raises:
        ValueError: a newer version has written it.
    """
    if kind == SAVED:
        return Owner(key)
    actor, value = msgspec.msgpack.decode(bytes.fromhex(key))
    return Owner(actor, unpacked(value))
