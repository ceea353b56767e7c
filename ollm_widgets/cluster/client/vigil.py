"""Who waits for a host: passes a cancel on, and notices that the host has gone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

from ollm_widgets.cluster.client.calls import Calls, Place
from ollm_widgets.cluster.client.post import quietly
from ollm_widgets.cluster.failures import HostGoneError
from ollm_widgets.errors import Cancelled

# A host ends a request in order within this; then it is left.
_ENDS_S = 2.0
# Serve lets a call wait for ever whose host went away with all others; so the registry is asked
# about one that says nothing. It knows from Ray: slowness alone is no reason to leave a host.
_SILENT_S = 2.0


class Vigil:
    """Looked at again and again while a host works on a request.

    Parameters
    ----------
    calls
        To the registry.
    place
        Where the request is.
    cancel
        Once it is set the host is told to end the request in order; None where leaving does.
    """

    def __init__(self, calls: Calls, place: Place, cancel: threading.Event | None = None) -> None:
        self._calls = calls
        self._place = place
        self._cancel = cancel
        self._ends_by: float | None = None
        self._heard = time.monotonic()
        self._doubt: Future[bool] | None = None

    def look(self, *, came: bool) -> None:
        """See whether the request is still wanted, and whether its host is still there.

        Parameters
        ----------
        came
            Whether the host has just said something.

        Raises
        ------
        Cancelled
            When it was cancelled, or the cluster left, and the host has gone on all the same.
        HostGoneError
            When the host has gone.
        """
        now = time.monotonic()
        if self._place.visit.over or (self._cancel is not None and self._cancel.is_set()):
            self._end_by(now)
        if came:
            self._heard = now
        elif self._doubt is not None:
            self._resolve(self._doubt, now)
        elif now - self._heard >= _SILENT_S:
            why = f"It has said nothing for {_SILENT_S:.0f} s."
            self._doubt = self._send("lost", self._place.route.host, why)

    def _end_by(self, now: float) -> None:
        if self._ends_by is None:
            self._ends_by = now + _ENDS_S
            route, link = self._place.route, self._place.link
            # The host may have ended the request already, or have gone.
            self._calls.post.send(quietly(link.host("stop", route.host, route.reservation)))
        elif now >= self._ends_by:
            raise Cancelled("The request was cancelled.")

    def _resolve(self, doubt: Future[bool], now: float) -> None:
        if not doubt.done():
            return
        self._doubt, self._heard = None, now
        if doubt.exception() is None and doubt.result():
            raise HostGoneError(f"Node {self._place.route.node} has gone.")

    def _send(self, method: str, *args: Any) -> Future[bool]:
        return self._calls.post.send(self._place.link.registry(method, *args))
