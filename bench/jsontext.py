"""Values of JSON text that somebody else may have written or damaged. A leaf module."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str | bytes | bytearray) -> Any:
    """Return the value; ValueError for what is no JSON, brackets nested beyond Python's recursion limit included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
