"""The tables of other brokers' rules, as they were taken over: each names its source."""

import json
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent / "tables"


def load(name: str) -> Any:
    """Return the table of that name."""
    return json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8"))
