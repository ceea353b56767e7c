"""What a manager keeps and tells: residents, leases, events."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.memory import MemoryUse

EventKind = Literal[
    "loading",
    "waiting",
    "loaded",
    "failed",
    "busy",
    "idle",
    "pinned",
    "unpinned",
    "demoting",
    "demoted",
    "returning",
    "returned",
    "unloaded",
    "evicted",
    "asked",
    "cancelled",
]
# "leaving" is being closed; "demoting" and "returning" move between accelerator and host memory.
ResidentState = Literal["ready", "demoting", "demoted", "returning", "leaving"]


@dataclass(frozen=True, slots=True, repr=False)
class MemoryChange:
    """What moved or left: measured bytes before and after.

    Parameters
    ----------
    id, name
        Of the runtime.
    before, after
        What it held.
    node
        The machine of a cluster that it was on; it may stay there for others. Empty for this one.
    """

    id: str
    name: str
    before: MemoryUse
    after: MemoryUse
    node: str = ""

    @property
    def freed_accelerator_bytes(self) -> int:
        """Bytes given back on accelerators."""
        return self.before.accelerator_bytes - self.after.accelerator_bytes

    @property
    def freed_host_bytes(self) -> int:
        """Bytes given back in host memory; negative after a demotion."""
        return self.before.host_bytes - self.after.host_bytes

    @property
    def freed_bytes(self) -> int:
        """Bytes given back, accelerator and host together."""
        return self.freed_accelerator_bytes + self.freed_host_bytes

    def __repr__(self) -> str:
        tiers = (
            ("GPU", self.before.accelerator_bytes, self.after.accelerator_bytes),
            ("RAM", self.before.host_bytes, self.after.host_bytes),
        )
        said = "; ".join(
            f"{tier} {format_memory(before)} before, {format_memory(after)} after"
            for tier, before, after in tiers
        )
        return f"<{type(self).__name__} {self.id}: {said}>"


class Unloaded(MemoryChange):
    """What an unload gave back."""


class Demoted(MemoryChange):
    """What a demotion moved from accelerators to host memory."""


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A change in what a manager keeps.

    Parameters
    ----------
    kind
        What happened.
    runtime_id, name
        To whom; the id is empty while it is being loaded.
    detail
        More for people: why it failed, whom it waits for, who asked for memory.
    change
        Bytes before and after, for what moved or left.
    at
        Seconds since the epoch.
    """

    kind: EventKind
    runtime_id: str
    name: str
    detail: str = ""
    change: MemoryChange | None = None
    at: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that cannot come into memory yet.

    Parameters
    ----------
    name
        What a person calls it.
    holders
        Names of the runtimes, loads and kernels that it waits for.
    since
        Seconds since the epoch.
    """

    name: str
    holders: tuple[str, ...]
    since: float


@dataclass(slots=True, eq=False, weakref_slot=True, repr=False)
class Resident:
    """A runtime in memory; the manager alone changes it, under its lock.

    Parameters
    ----------
    id
        What it is borrowed, pinned and unloaded by.
    runtime
        The model itself.
    keys
        Requests that get this runtime.
    last_used
        On the manager's clock.
    leases
        How many callers hold it.
    busy
        Whether a request runs or waits in it, under a lease or not.
    moves
        Whether it is busy with a move.
    busy_since
        When it came into use, on the manager's clock.
    turn
        Counts the uses of all runtimes; the smallest is the least recently used.
    group
        Others of this group are never in memory with it.
    elsewhere
        Whether it runs on a node of a cluster, and holds nothing of this machine.
    held
        Bytes by place, as last measured.
    away
        Bytes that a demoted runtime needs to come back, by place.
    demotable
        Whether it could go to host memory, as last asked.
    spare_bytes
        The part of what it holds in host memory that only makes its next demotion quick.
    stays
        Whether a demotion has failed since its last use.
    """

    id: str
    runtime: Runtime
    keys: set[Hashable]
    last_used: float  # time.monotonic
    leases: int = 0
    pinned: bool = False
    state: ResidentState = "ready"
    group: str | None = None
    elsewhere: bool = False
    busy: bool = False
    moves: bool = False
    busy_since: float = 0.0
    turn: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    away: Mapping[str, int] = field(default_factory=dict)
    demotable: bool = False
    spare_bytes: int = 0
    stays: bool = False

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.runtime.name

    @property
    def in_use(self) -> bool:
        """Whether somebody holds it, or it answers somebody who does not."""
        return self.leases > 0 or self.busy

    @property
    def idle_s(self) -> float:
        """Seconds since its last use; 0 while it is in use."""
        return 0.0 if self.in_use else max(time.monotonic() - self.last_used, 0.0)

    def __repr__(self) -> str:
        leases = "1 lease" if self.leases == 1 else f"{self.leases} leases"
        used = leases if self.leases else "busy" if self.busy else "idle"
        pinned = ", pinned" if self.pinned else ""
        return f"<Resident {self.id}: {self.state}, {used}{pinned}, held={dict(self.held)}>"


class Lease:
    """Marks a runtime as in use until released; a context manager.

    A lease that is dropped without release is released when it is collected.

    Parameters
    ----------
    resident
        What is leased.
    release
        Gives it back, at once.
    abandon
        Gives it back from wherever the collector happens to run, so it must take no lock.
    """

    def __init__(
        self, resident: Resident, release: Callable[[], None], abandon: Callable[[], None]
    ) -> None:
        self.id = resident.id
        self._runtime: Runtime = resident.runtime
        self._release = release
        self._finalizer = weakref.finalize(self, abandon)
        # A kernel that ends closes its runtimes, leased or not.
        self._finalizer.atexit = False

    @property
    def runtime(self) -> Runtime:
        """The runtime that is held."""
        return self._runtime

    def release(self) -> None:
        """Give the runtime back; calling it again does nothing."""
        if self._finalizer.detach() is not None:
            self._release()

    def __enter__(self) -> Lease:
        return self

    def __repr__(self) -> str:
        released = "" if self._finalizer.alive else ", released"
        return f"<Lease on {self.id}{released}>"

    def __exit__(self, *_error: object) -> None:
        self.release()
