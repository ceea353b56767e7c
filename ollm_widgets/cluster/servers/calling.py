"""Calls between the deployments."""

from __future__ import annotations

from contextvars import Context
from typing import Any


def call(handle: Any, method: str, *args: Any, stream: bool = False) -> Any:
    """Begin a call of a deployment; returns Serve's response.

    Serve gives all calls that are made while a request is answered the id of that request, and
    ends them with it; where a router sends each to a replica of its own, it finds only one of
    them. So each is made as if nobody had asked.
    """
    begin = handle.options(method_name=method, stream=stream).remote
    return Context().run(begin, *args)
