"""What outlives a mesh: the adapters of `flowmesh.ports.Store`.

`SQLiteStore` keeps everything in one file and needs nothing else installed; `MemoryStore` behaves the same and survives
nothing, for tests.
"""

from flowmesh.stores.memory import MemoryStore
from flowmesh.stores.sqlite import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore"]
