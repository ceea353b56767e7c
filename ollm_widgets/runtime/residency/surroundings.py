"""What a manager asks of the world around it: how full memories are, and who else fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# The place that is no device.
RAM = "ram"


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """How full one memory is, now.

    Parameters
    ----------
    place
        ``ram``, or a device such as ``cuda:0``.
    total_bytes
        What it has.
    free_bytes
        What this process can still take of it: what nobody uses, and what torch keeps for reuse.
    """

    place: str
    total_bytes: int
    free_bytes: int

    @property
    def used_share(self) -> float:
        """Share in use, other processes included."""
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 0.0


class MemoryGauge(Protocol):
    """Reads how full memories are."""

    def levels(self) -> Mapping[str, MemoryLevel]:
        """Return each memory by its place; costs milliseconds and imports nothing heavy."""
        ...


@dataclass(frozen=True, slots=True)
class HeldRuntime:
    """One runtime of some kernel, as it shows itself to others.

    Parameters
    ----------
    name
        What a person calls it.
    state
        ``busy``, ``idle``, ``pinned`` or ``demoted``.
    idle_s
        Seconds since its last use.
    held_bytes
        Bytes by place.
    """

    name: str
    state: str
    idle_s: float
    held_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Holder:
    """Another kernel on this machine that holds memory.

    Parameters
    ----------
    pid
        Its process.
    title
        What a person knows it by: its notebook, else its command.
    runtimes
        What it keeps.
    """

    pid: int
    title: str
    runtimes: tuple[HeldRuntime, ...]

    def held_bytes(self, place: str) -> int:
        """Bytes that it holds in one memory."""
        return sum(runtime.held_bytes.get(place, 0) for runtime in self.runtimes)


@dataclass(frozen=True, slots=True)
class Plea:
    """A polite request of another kernel to give memory back.

    Parameters
    ----------
    id
        Answered by it, once.
    asker_pid, asker_title
        Who asks.
    place, needed_bytes
        What for.
    """

    id: str
    asker_pid: int
    asker_title: str
    place: str
    needed_bytes: int


class Neighbours(Protocol):
    """The other kernels of this machine that keep runtimes."""

    def publish(self, runtimes: Sequence[HeldRuntime]) -> None:
        """Show what this kernel keeps; an empty sequence withdraws it."""
        ...

    def others(self) -> tuple[Holder, ...]:
        """Return who else keeps runtimes; those that died are forgotten."""
        ...

    def ask(self, place: str, needed_bytes: int, pid: int | None = None) -> tuple[Holder, ...]:
        """Ask others that hold memory there, or the one of `pid`, for some; returns whom.

        They need not give any.
        """
        ...

    def pleas(self) -> tuple[Plea, ...]:
        """Return what others ask of this kernel and has not been answered; cheap to call."""
        ...

    def answer(self, plea: Plea, freed_bytes: int) -> None:
        """Say what was given back, which may be nothing."""
        ...

    def close(self) -> None:
        """Withdraw everything of this kernel."""
        ...
