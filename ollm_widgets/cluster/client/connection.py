"""The one connection of this process to a cluster: made when it is needed, and made anew."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ollm_widgets.backends.base import LoadProgress, ProgressSink
from ollm_widgets.cluster.client.deploying import NoHostsYet, Say, end_hosts, find_hosts
from ollm_widgets.cluster.client.joining import CONNECT, attend, connect_to_ray, disconnect_from_ray
from ollm_widgets.cluster.client.link import Link
from ollm_widgets.cluster.client.post import Post
from ollm_widgets.cluster.client.troubles import understood, unreachable
from ollm_widgets.cluster.failures import HostGoneError
from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.letting_go import let_go
from ollm_widgets.runtime.residency.failing import copy_of
from ollm_widgets.runtime.worker import WAIT_SLICE_S

if TYPE_CHECKING:
    from ollm_widgets.cluster.options import ClusterOptions


_FAREWELL_S = 5.0
# Ray has one connection a process, which several of these may use.
_USERS: weakref.WeakSet[Connection] = weakref.WeakSet()


class Visit:
    """The time from a first need to a goodbye; what began in it does not connect again after it.

    Attributes
    ----------
    over
        Whether the cluster was left.
    """

    over = False

    def check(self) -> None:
        """See that it is not over.

        Raises
        ------
        Cancelled
            If it is.
        """
        if self.over:
            raise Cancelled("The cluster was left meanwhile.")

    @contextlib.contextmanager
    def ends(self) -> Iterator[None]:
        """Take what fails in here after the goodbye for ended by that."""
        try:
            yield
        except Exception:
            self.check()
            raise


class Connection:
    """Connects with the first need, on a thread of its own, once for all who wait for it.

    Parameters
    ----------
    options
        Which cluster.

    Attributes
    ----------
    post
        Where calls wait.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self.post = Post()
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._visit = Visit()
        self._link: Link | None = None
        self._attempt: Attempt | None = None
        self._attempts: queue.SimpleQueue[Attempt] = queue.SimpleQueue()
        self._has_thread = False
        self._joined = False
        self._broken = False
        self._lost: Link | None = None

    @property
    def link(self) -> Link | None:
        """What it is connected by; None while it is not."""
        with self._lock:
            return self._link

    @property
    def visit(self) -> Visit:
        """What begins now belongs to it."""
        with self._lock:
            return self._visit

    def open(
        self,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
        *,
        visit: Visit | None = None,
        timeout_s: float | None = None,
        starts: bool = True,
    ) -> Link:
        """Return the connection; connect if need be.

        Parameters
        ----------
        progress
            Is told the stages, on the calling thread.
        cancel
            Set it from another thread to leave; what has begun goes on for the next who asks.
        visit
            What it is for; None is the visit of now.
        timeout_s
            How long to wait; None waits until it is connected or has failed.
        starts
            Whether hosts are started where there are none.

        Raises
        ------
        NoHostsYet
            If there are none, and they are not to be started.
        ClusterUnavailableError
            If the cluster cannot be reached.
        Cancelled
            When `cancel` was set, or the cluster was left.
        TimeoutError
            When it takes longer than `timeout_s`.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        visit = visit or self.visit
        while True:
            with self._lock:
                visit.check()
                if self._link is not None:
                    return self._link
                attempt = self._attempt
                if attempt is None or attempt.ended.is_set():
                    connect = functools.partial(self._connect, visit=visit, starts=starts)
                    attempt = self._attempt = Attempt(connect, visit)
                    self._begin(attempt)
                    own = True
                else:
                    own = False
            try:
                return attempt.wait(progress, cancel, until)
            except NoHostsYet:
                if own or not starts:
                    raise
                # Somebody has only looked; now hosts are to be started.

    def lost(self, link: Link) -> None:
        """Forget a connection that does not work any more; the next need makes another."""
        with self._lock:
            if self._link is link:
                self._link, self._lost, self._broken = None, link, True

    def end_hosts(self) -> None:
        """End the hosts, for everybody who uses them."""
        with self._connecting:
            end_hosts(self.options)

    def end_visit(self) -> Link | None:
        """Let nothing that has begun connect again; returns what it is connected by."""
        with self._lock:
            self._visit.over = True
            self._visit, self._attempt = Visit(), None
            return self._link

    def close(self) -> None:
        """Disconnect from Ray, if it was this that connected; a local cluster ends with it.

        Where another one of this process uses it, that one disconnects.
        """
        self.end_visit()
        with self._lock:
            links = (self._link, self._lost)
            self._link = self._lost = None
        for link in links:
            if link is not None:
                self._end(link)
        if not self._connecting.acquire(timeout=_FAREWELL_S):
            return  # what is being connected disconnects by itself
        try:
            self._part()
        finally:
            self._connecting.release()

    def _part(self) -> None:
        """Disconnect from Ray, or leave that to another one that uses it."""
        _USERS.discard(self)
        joined, self._joined = self._joined, False
        heir = next(iter(_USERS), None)
        if joined and heir is not None:
            heir._joined = True
        elif joined:
            disconnect_from_ray()

    def _end(self, link: Link) -> None:
        with contextlib.suppress(TimeoutError):
            self.post.ask(link.end(), None, _FAREWELL_S)

    def _begin(self, attempt: Attempt) -> None:
        if not self._has_thread:
            self._has_thread = True
            threading.Thread(
                target=_carry_out, args=(self._attempts,), name="ollm-cluster-connect", daemon=True
            ).start()
        self._attempts.put(attempt)

    def _connect(self, say: Say, *, visit: Visit, starts: bool) -> Link:
        with self._connecting:
            try:
                visit.check()
                return self._join(say, visit, starts=starts)
            finally:
                if visit.over:  # who left may not have waited for this
                    self._part()

    def _join(self, say: Say, visit: Visit, *, starts: bool) -> Link:
        say(CONNECT)
        with self._lock:
            lost, self._lost = self._lost, None
            broken, self._broken = self._broken, False
        if lost is not None:
            self._end(lost)
        if self._joined and broken:
            # What does not answer may be a cluster that was replaced by another.
            disconnect_from_ray()
            self._joined = False
        self._joined = connect_to_ray(self.options) or self._joined
        try:
            handles = find_hosts(self.options, say, starts=starts)
            visit.check()
            link = attend(self.post, self.options, handles)
        except NoHostsYet:
            raise
        except Exception as error:
            visit.check()
            self._broken = True
            known = understood(error)
            if isinstance(known, HostGoneError):
                raise unreachable(known.message) from None
            raise known from None
        with self._lock:
            if not visit.over:
                self._link = link
        if visit.over:
            self._end(link)
            visit.check()
        _USERS.add(self)
        return link


class Attempt:
    """One try to connect, which several may wait for.

    Parameters
    ----------
    connect
        Is given a function to call with the name of each stage.
    visit
        What it is for.
    """

    def __init__(self, connect: Callable[[Say], Link], visit: Visit) -> None:
        self.ended = threading.Event()
        self._connect = connect
        self._visit = visit
        self._stage = CONNECT
        self._link: Link | None = None
        self._error: BaseException | None = None

    def wait(
        self, progress: ProgressSink | None, cancel: threading.Event | None, until: float | None
    ) -> Link:
        """Wait until it has ended; see `Connection.open`."""
        told = ""
        while True:
            stage = self._stage
            if progress is not None and stage != told:
                progress(LoadProgress(stage, 0, 0))
                told = stage
            if cancel is not None and cancel.is_set():
                raise Cancelled("Connecting to the cluster was cancelled.")
            if self.ended.wait(WAIT_SLICE_S):
                break
            self._visit.check()
            if until is not None and time.monotonic() >= until:
                raise TimeoutError("The cluster has not answered yet.")
        if self._link is None:
            raise copy_of(self._error) if self._error is not None else NoHostsYet
        return self._link

    def _say(self, stage: str) -> None:
        self._stage = stage

    def carry_out(self) -> None:
        """Connect, and tell who waits."""
        try:
            self._link = self._connect(self._say)
        except BaseException as error:  # who waits raises it, whatever it is
            let_go(error)
            self._error = error
        finally:
            self.ended.set()


def _carry_out(attempts: queue.SimpleQueue[Attempt]) -> None:
    """Carry out one after the other, and stay: the processes of Ray end with this thread."""
    while True:
        attempts.get().carry_out()
