"""negotiator: a marketplace that buys language-model calls.

``Engine`` is the market in this process; ``AsyncClient`` and ``Client`` speak to a server and have the same methods.
Names are imported when they are first used, so that ``import negotiator`` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negotiator.client import AsyncClient, Client
    from negotiator.engine import Engine
    from negotiator.errors import Reject, Rejected
    from negotiator.wire import Terms

__all__ = ["AsyncClient", "Client", "Engine", "Reject", "Rejected", "Terms"]

_HOME = {
    "AsyncClient": "client",
    "Client": "client",
    "Engine": "engine",
    "Reject": "errors",
    "Rejected": "errors",
    "Terms": "wire",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'negotiator' has no attribute {name!r}")
    return getattr(importlib.import_module(f"negotiator.{_HOME[name]}"), name)
