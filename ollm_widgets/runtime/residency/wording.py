"""Who stands in the way, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ollm_widgets.errors import NoRoomError, RuntimeBusyError
from ollm_widgets.planning.parts import listed
from ollm_widgets.render.units import format_memory, format_seconds
from ollm_widgets.runtime.residency.records import Resident
from ollm_widgets.runtime.residency.steps import Hold, HoldKind
from ollm_widgets.runtime.residency.surroundings import RAM, Holder, Plea

_WHY: dict[HoldKind, str] = {
    "pinned": "pinned",
    "busy": "busy",
    "idle": "idle",
    "wanted": "asked back",
    "moving": "on the move",
    "loading": "loading",
    "earlier": "waiting too",
}


def waits_for(holds: Sequence[Hold], others: Sequence[Holder] = ()) -> str:
    """Say whom a newcomer waits for: ``"Waits for SmolLM2 (busy)."``."""
    names = [f"{hold.name} ({_WHY[hold.why]})" for hold in holds]
    names += [f"{other.title} (another kernel)" for other in others]
    return f"Waits for {listed(names)}." if names else "Waits for memory that others use."


def for_newcomer(newcomer: str, leaver: str) -> str:
    """Say for whom somebody leaves; a model may be in memory twice, in two ways."""
    return f"For another {newcomer}." if newcomer == leaver else f"For {newcomer}."


def because(detail: str) -> str:
    """Go on with the reason of an event: ``" for gamma"``, ``" (unused for 15 min)"``."""
    detail = detail.rstrip(".")
    if detail.startswith("For "):
        return f" {detail[:1].lower()}{detail[1:]}"
    return f" ({detail})" if detail else ""


def bytes_in_words(held: Mapping[str, int]) -> str:
    """Say what is held where: ``"15.0 GiB of cuda:0 and 513 MiB of RAM"``."""
    return listed(
        [f"{format_memory(size)} of {_place(place)}" for place, size in held.items() if size]
        or ["nothing"]
    )


def asked_by(plea: Plea, freed_bytes: int) -> str:
    """Say who asked for memory, and what was given back."""
    gave = format_memory(freed_bytes) if freed_bytes else "nothing"
    needed = bytes_in_words({plea.place: plea.needed_bytes})
    return f"{plea.asker_title} (process {plea.asker_pid}) asked for {needed}; {gave} was given."


def no_room(
    name: str,
    holds: Iterable[Hold],
    residents: Mapping[str, Resident],
    others: Sequence[Holder],
    *,
    group: str | None,
    short: Mapping[str, int],
    max_loaded: int | None,
    now: float,
) -> NoRoomError:
    """Build the error that says who holds what, why each stays, and what to do."""
    holds = tuple(holds)
    holders = [_holder(hold, residents.get(hold.id), now) for hold in holds]
    places = tuple(short) or (RAM,)
    holders += [_other(other, places) for other in others]
    steps = _steps(holds, others)
    is_member = group is not None and (max_loaded is None or _are_of(group, holds, residents))
    by_group = is_member and not short
    if short:
        lack = f"{bytes_in_words(short)} {'is' if len(short) == 1 else 'are'} missing"
    elif by_group:
        lack = f"one of group {group!r} may be in memory at a time"
    elif max_loaded is None:
        lack = "who came first has not got its own yet"
    else:
        lack = f"max_loaded is {max_loaded}"
        steps.append("raise max_loaded")
    if not by_group:
        steps.append("load it all the same with anyway=True (%ollm load --anyway)")
    hint = ", or ".join(steps)
    held = f", held by {listed(holders)}" if holders else ""
    return NoRoomError(
        f"No room for {name}: {lack}{held}.",
        holders=holders,
        hint=f"{hint[:1].upper()}{hint[1:]}." if hint else "",
    )


def still_busy(resident: Resident, wait_s: float) -> RuntimeBusyError:
    """Build the error that says why one that was waited for could not go, and what to do."""
    said = f"{resident.name} is still busy after {format_seconds(wait_s)}"
    force = "or unload with force (%ollm unload --force)."
    if resident.busy:
        return RuntimeBusyError(f"{said}.", hint=f"Stop its answer, {force}")
    held = "1 lease holds" if resident.leases == 1 else f"{resident.leases} leases hold"
    return RuntimeBusyError(f"{said}: {held} it.", hint=f"Release it with lease.release(), {force}")


def _holder(hold: Hold, resident: Resident | None, now: float) -> str:
    why = _WHY[hold.why]
    if resident is not None and hold.why == "busy":
        why = f"{why} for {format_seconds(max(now - resident.busy_since, 0.0))}"
    said = f"{hold.id or hold.name} ({why})"
    if resident is None or not any(resident.held.values()):
        return said
    return f"{said} with {bytes_in_words(resident.held)}"


def _other(other: Holder, places: Sequence[str]) -> str:
    held = {place: other.held_bytes(place) for place in places}
    states = {one.state for one in other.runtimes if any(map(one.held_bytes.get, places))}
    why = "busy" if "busy" in states else "pinned" if states == {"pinned"} else ""
    about = ", ".join(filter(None, ("another kernel", f"process {other.pid}", why)))
    return f"{other.title} ({about}) with {bytes_in_words(held)}"


def _steps(holds: Sequence[Hold], others: Sequence[Holder]) -> list[str]:
    steps = []
    if any(hold.why == "busy" for hold in holds):
        steps.append("wait for the busy one, or stop it")
    if any(hold.why == "pinned" for hold in holds):
        steps.append("unload or unpin one")
    if others:
        steps.append("unload a model in the other kernel")
    return steps


def _are_of(group: str, holds: Sequence[Hold], residents: Mapping[str, Resident]) -> bool:
    found = [residents[hold.id] for hold in holds if hold.id in residents]
    return bool(found) and all(one.group == group for one in found)


def _place(place: str) -> str:
    return "RAM" if place == RAM else place
