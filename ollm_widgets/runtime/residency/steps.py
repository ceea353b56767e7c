"""What a ledger keeps of those on their way into memory, and what it answers them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency.records import Resident, Waiting

HoldKind = Literal["pinned", "busy", "idle", "wanted", "moving", "loading", "earlier"]


@dataclass(slots=True, eq=False)
class Journey:
    """A load, or a return from host memory, that callers wait for.

    Parameters
    ----------
    number
        Counts the journeys; who began to wait earlier comes earlier.
    name
        What a person calls the model.
    keys
        Requests that it serves.
    group
        Others of this group are never in memory with it.
    resident
        Who comes back; None for a load.
    needs
        Bytes by place, with the margin that shall stay free.
    elsewhere
        It comes into the memory of another machine, and needs no room here.
    anyway
        It does not wait for what is in use, and stays when there is no room.
    passengers
        Callers that wait for it; without any it is cancelled.
    asks
        Whether it asks for room yet; before that its files come.
    under_way
        Whether it has its room.
    cancelled
        Nobody waits for it any more; it ends soon.
    landed
        What came of it.
    waiting
        Whom it waits for, for people.
    """

    number: int
    name: str
    keys: frozenset[Hashable] = frozenset()
    group: str | None = None
    resident: Resident | None = None
    needs: Mapping[str, int] = field(default_factory=dict)
    elsewhere: bool = False
    anyway: bool = False
    passengers: int = 0
    asks: bool = False
    under_way: bool = False
    cancelled: bool = False
    landed: Resident | None = None
    waiting: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Something that stands in the way.

    Parameters
    ----------
    id
        Of a runtime; empty for a load.
    name
        What a person calls it.
    why
        Why it does not go now: ``wanted`` is asked back from host memory, ``earlier`` waits for
        room itself and came first.
    """

    id: str
    name: str
    why: HoldKind


@dataclass(frozen=True, slots=True)
class Grant:
    """It is in memory and may be leased."""

    resident: Resident


@dataclass(frozen=True, slots=True)
class Join:
    """It is on its way."""

    journey: Journey


@dataclass(frozen=True, slots=True)
class Return:
    """It is in host memory, and has to come back first."""

    resident: Resident


@dataclass(frozen=True, slots=True)
class Linger:
    """It is between two states; ask again after the next change."""


@dataclass(frozen=True, slots=True)
class Absent:
    """It is not in memory."""


@dataclass(frozen=True, slots=True)
class Enter:
    """There is room; the journey may go under way."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The runtime that should come back has left."""


@dataclass(frozen=True, slots=True)
class Close:
    """A resident has to leave first."""

    resident: Resident


@dataclass(frozen=True, slots=True)
class Demote:
    """A resident has to go to host memory first."""

    resident: Resident


@dataclass(frozen=True, slots=True)
class ReleaseSpare:
    """A resident has to let go of a copy in host memory that it can do without."""

    resident: Resident


@dataclass(frozen=True, slots=True)
class Wait:
    """Room comes when these have moved; ask again after the next change.

    Parameters
    ----------
    holds
        Whom it waits for.
    short
        Bytes that lack, by place; empty where it is not for bytes.
    """

    holds: tuple[Hold, ...]
    short: Mapping[str, int] = field(default_factory=dict)

    @property
    def ends_by_itself(self) -> bool:
        """Whether nobody has to let go of anything for it."""
        return all(hold.why in ("moving", "loading", "earlier") for hold in self.holds)


@dataclass(frozen=True, slots=True)
class Refuse:
    """There is no room, and none will come by waiting.

    Parameters
    ----------
    holds
        Who holds it; empty where nobody here does.
    short
        Bytes that lack, by place; empty where it is not for bytes.
    """

    holds: tuple[Hold, ...]
    short: Mapping[str, int] = field(default_factory=dict)


Answer: TypeAlias = Grant | Join | Return | Linger | Absent
Step: TypeAlias = Enter | Gone | Close | Demote | ReleaseSpare | Wait | Refuse
