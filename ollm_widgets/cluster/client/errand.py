"""One request to the cluster: a place, a load where need be, and the answer; once more elsewhere.

Whatever becomes of it, its place is given back: by the host that served it, or by this side where
the host could not be reached, or may not have heard of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from ollm_widgets.backends.base import ProgressSink
from ollm_widgets.cluster.client.calls import Calls, Place
from ollm_widgets.cluster.client.connection import Visit
from ollm_widgets.cluster.client.vigil import Vigil
from ollm_widgets.cluster.failures import HostGoneError, NotHeldError
from ollm_widgets.cluster.messages import Described, Wanted
from ollm_widgets.errors import Cancelled, HostLostError, RuntimeBusyError
from ollm_widgets.runtime.completion import Delta
from ollm_widgets.runtime.worker import WAIT_SLICE_S

T = TypeVar("T")

# A model may be evicted between the route and the request; not time after time.
_MOST_ROUTES = 5

# What is done at a place, with what was loaded there for it, if anything had to be.
Use = Callable[[Place, Described | None], T]


class Errands:
    """Carries out the requests of this process.

    Parameters
    ----------
    calls
        To the registry.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._post = calls.post

    def run(
        self,
        wanted: Wanted,
        visit: Visit,
        cancel: threading.Event,
        use: Use[T],
        *,
        prefix: tuple[str, ...] = (),
        caller: str = "",
        progress: ProgressSink | None = None,
    ) -> T:
        """Find a place, load there what is missing, and use it.

        Parameters
        ----------
        visit
            In which it was asked for; it does not outlive that.
        use
            Raises `HostGoneError` where nothing has come of it, and it can be done elsewhere.

        Raises
        ------
        Cancelled
            When `cancel` was set, or the cluster was left.
        HostLostError
            If a host went away in the midst of it, or a second one before it began.
        OllmError
            What the registry, or the host, said.
        """
        avoid: frozenset[str] = frozenset()
        with visit.ends():
            for _ in range(_MOST_ROUTES):
                place = self.calls.place(
                    wanted, prefix, avoid, visit=visit, cancel=cancel, progress=progress
                )
                try:
                    described = None
                    if place.route.loads:
                        described = self.load(place, wanted, cancel, caller, progress)
                    return use(place, described)
                except NotHeldError:
                    self.calls.release(place)
                except HostGoneError as error:
                    self._report(place, error)
                    if avoid:
                        raise lost(place, "before it answered") from None
                    avoid = frozenset((place.route.host,))
                except HostLostError as error:
                    self._report(place, error)
                    raise
                except BaseException:
                    self.calls.release(place)
                    raise
        raise RuntimeBusyError(
            f"{wanted.name} was loaded and had to leave again {_MOST_ROUTES} times: the cluster "
            "has too little room for what is asked of it.",
            hint="Ask again later, or pin the model.",
        )

    def load(
        self,
        place: Place,
        wanted: Wanted,
        cancel: threading.Event,
        caller: str = "",
        progress: ProgressSink | None = None,
    ) -> Described:
        """Load a model at a place, or hear what is loaded there.

        Raises
        ------
        HostGoneError
            If the host went away meanwhile.
        """
        route, link = place.route, place.link
        incoming = self._post.receive(
            link.stream(
                "load", route.host, route.reservation, wanted, route.evicts, link.client, caller
            )
        )
        vigil = Vigil(self.calls, place)
        try:
            for item in incoming:
                if cancel.is_set():
                    raise Cancelled(f"Loading {wanted.name} was cancelled.")
                vigil.look(came=item is not None)
                if isinstance(item, Described):
                    return item
                if item is not None and progress is not None:
                    progress(item)
        except Cancelled:
            if cancel.is_set():
                raise
        finally:
            incoming.close()
        raise _gone(place)

    def stream(
        self,
        place: Place,
        key: str,
        prompt: Any,
        *,
        generation: dict[str, Any],
        caller: str,
        cancel: threading.Event,
        on_wait: Callable[[int], None],
    ) -> Iterator[Delta]:
        """Have a place answer, piece by piece; after `cancel` the last one says so.

        Raises
        ------
        HostGoneError
            If the host went away before the first piece.
        HostLostError
            If it went away after it.
        Cancelled
            If it does not end in time after `cancel`.
        """
        route, link = place.route, place.link
        incoming = self._post.receive(
            link.stream(
                "stream",
                route.host,
                route.reservation,
                key,
                prompt,
                generation,
                link.client,
                caller,
            )
        )
        vigil = Vigil(self.calls, place, cancel)
        last: Delta | None = None
        try:
            for items in incoming:
                vigil.look(came=items is not None)
                for item in items or ():
                    if not isinstance(item, Delta):
                        on_wait(item[1])
                        continue
                    if last is None:
                        on_wait(0)
                    last = item
                    yield item
        except (HostGoneError, Cancelled) as error:
            if isinstance(error, Cancelled) and cancel.is_set():
                raise
            if last is None:
                raise _gone(place) from None
            if last.finish_reason is None:
                raise lost(place, f"after {last.new_tokens:,} tokens of its answer") from None
        finally:
            incoming.close()

    def generate(
        self,
        place: Place,
        key: str,
        ids: Sequence[Sequence[int]],
        *,
        mask: Sequence[Sequence[int]] | None,
        generation: dict[str, Any],
        caller: str,
        cancel: threading.Event,
    ) -> list[list[int]]:
        """Have a place generate token ids; after `cancel` those so far.

        Raises
        ------
        HostGoneError
            If the host went away meanwhile.
        Cancelled
            If it does not end in time after `cancel`.
        """
        route, link = place.route, place.link
        future: Future[list[list[int]]] = self._post.send(
            link.host(
                "generate",
                route.host,
                route.reservation,
                key,
                ids,
                mask,
                generation,
                link.client,
                caller,
            )
        )
        vigil = Vigil(self.calls, place, cancel)
        try:
            while not wait((future,), WAIT_SLICE_S).done:
                vigil.look(came=False)
            return future.result()
        except Cancelled:
            if cancel.is_set():
                raise
            raise _gone(place) from None
        finally:
            future.cancel()

    def _report(self, place: Place, error: HostGoneError | HostLostError) -> None:
        self.calls.release(place)
        self.calls.lost(place, error.message)


def lost(place: Place, when: str) -> HostLostError:
    """Build the error for a node that went away."""
    node = place.route.node
    return HostLostError(
        f"Node {node} went away {when}.",
        node=node,
        hint="Ask again: the request then goes to another node.",
    )


def _gone(place: Place) -> HostGoneError:
    """Build the error for a host that ended a request without a word, as it does when it ends."""
    return HostGoneError(f"Node {place.route.node} has ended the request.")
