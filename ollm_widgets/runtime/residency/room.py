"""Who has to go so that one more can come: decided from the ledger, nothing is done here.

Who shares a group goes first, then the limit of runtimes, then bytes. The least recently used goes
first. Nobody goes in vain: while what is idle is not enough, it stays, and what is in use is
waited for. Who waits for room has its claim on it before anyone who came later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.records import Resident
from ollm_widgets.runtime.residency.steps import (
    Close,
    Demote,
    Enter,
    Gone,
    Hold,
    HoldKind,
    Journey,
    Refuse,
    ReleaseSpare,
    Step,
    Wait,
)
from ollm_widgets.runtime.residency.surroundings import RAM


def next_step(ledger: Ledger, journey: Journey, free: Mapping[str, int]) -> Step:
    """Say what has to happen next for `journey` to go under way.

    Parameters
    ----------
    free
        Bytes that are free now, by place; what is not there is not looked at.
    """
    comes_back = journey.resident
    if comes_back is not None:
        known = ledger.residents.get(comes_back.id)
        if known is not comes_back or comes_back.state == "leaving":
            return Gone()
        return _bytes(ledger, journey, free) or Enter()
    if journey.elsewhere:
        return Enter()
    counted = _group(ledger, journey) or _count(ledger, journey)
    if isinstance(counted, Close):
        wanting = _bytes(ledger, journey, free)
        if isinstance(wanting, Refuse) and wanting.holds:
            return wanting  # it would go in vain
    return counted or _bytes(ledger, journey, free) or Enter()


def would_leave(
    ledger: Ledger, needs: Mapping[str, int], group: str | None, free: Mapping[str, int]
) -> list[Resident]:
    """Return who would make room for one more, were it asked for now: of those that may leave."""
    residents = ledger.here()
    going = [one for one in residents if group is not None and one.group == group]
    limit = ledger.options.max_loaded
    surplus = len(residents) + 1 - limit if limit is not None else 0
    short = {place: size - free[place] for place, size in needs.items() if place in free}
    for one in residents:
        lacks = any(size > 0 and one.held.get(place) for place, size in short.items())
        if one in going or not (lacks or len(going) < surplus) or not ledger.is_free(one):
            continue
        going.append(one)
        short = {place: size - one.held.get(place, 0) for place, size in short.items()}
    return [one for one in going if ledger.is_free(one)]


def holders(ledger: Ledger, journey: Journey, short: Mapping[str, int]) -> tuple[Hold, ...]:
    """Return who holds what `journey` would need: all of its group, of the bytes, or of the places.

    Parameters
    ----------
    short
        Bytes that lack, by place; empty where it is not for bytes.
    """
    residents = [one for one in ledger.staying() if not one.elsewhere]
    if short:
        residents = [one for one in residents if any(one.held.get(place) for place in short)]
    elif journey.group is not None:
        members = [one for one in residents if one.group == journey.group]
        residents = members or residents
    loading = ledger.under_way(journey)
    return (*_residents(ledger, residents), *_journeys(loading))


def _group(ledger: Ledger, journey: Journey) -> Step | None:
    """Let the others of its group go, whether there is room or not."""
    if journey.group is None:
        return None
    coming = [
        other
        for other in (*ledger.under_way(journey), *ledger.earlier(journey))
        if other.group == journey.group and other.resident is None
    ]
    if coming:
        return Wait(_journeys(coming))
    members = [one for one in ledger.by_use() if one.group == journey.group]
    pinned = [one for one in members if one.pinned and one.state != "leaving"]
    if pinned:
        return Refuse(_residents(ledger, pinned))
    staying = [one for one in members if not ledger.can_leave(one, journey)]
    if staying:
        return Wait(_residents(ledger, staying))
    return Close(members[0]) if members else None


def _count(ledger: Ledger, journey: Journey) -> Step | None:
    """Keep the number of runtimes, those that are being loaded included."""
    limit = ledger.options.max_loaded
    if limit is None:
        return None
    residents = ledger.here()
    loading = [other for other in ledger.under_way(journey) if _comes_here(other)]
    earlier = [other for other in ledger.earlier(journey) if _comes_here(other)]
    idle = [one for one in residents if ledger.can_leave(one, journey)]
    surplus = len(residents) + len(loading) + 1 - limit
    if journey.anyway:
        return Close(idle[0]) if surplus > 0 and idle else None
    if earlier and surplus + len(earlier) > 0:
        return Wait(_journeys(earlier))
    return _free_slots(ledger, residents, idle, loading, surplus) if surplus > 0 else None


def _free_slots(
    ledger: Ledger,
    residents: Sequence[Resident],
    idle: Sequence[Resident],
    loading: Sequence[Journey],
    surplus: int,
) -> Step:
    """Let so many go as are in memory beyond the limit."""
    leaving = [one for one in residents if one.state == "leaving"]
    if surplus <= len(leaving):
        return Wait(_residents(ledger, leaving))
    if surplus <= len(leaving) + len(idle):
        return Close(idle[0])
    others = [one for one in residents if one not in idle and one not in leaving]
    awaited = [one for one in others if not one.pinned]
    if surplus <= len(leaving) + len(idle) + len(awaited) + len(loading):
        return Wait((*_residents(ledger, awaited), *_journeys(loading)))
    return Refuse((*_residents(ledger, others), *_journeys(loading)))


def _bytes(ledger: Ledger, journey: Journey, free: Mapping[str, int]) -> Step | None:
    """See to it that every place holds what it needs, beside what others were promised."""
    needs = {place: size for place, size in journey.needs.items() if size and place in free}
    short = {place: size - free[place] for place, size in needs.items() if size > free[place]}
    claims = [
        other
        for other in (*ledger.under_way(journey), *ledger.earlier(journey))
        if any(other.needs.get(place) for place in needs)
    ]
    if not short:
        # What they were promised may be taken already, so nobody leaves for it: it is waited for.
        promised = {place: sum(each.needs.get(place, 0) for each in claims) for place in needs}
        fits = all(size + promised[place] <= free[place] for place, size in needs.items())
        return None if fits or journey.anyway else Wait(_journeys(claims))
    earlier = [other for other in claims if not other.under_way]
    if earlier and not journey.anyway:
        return Wait(_journeys(earlier), short)
    loading = [other for other in claims if other.under_way]
    return _free_bytes(ledger, journey, short, loading, free)


def _free_bytes(
    ledger: Ledger,
    journey: Journey,
    short: Mapping[str, int],
    loading: Sequence[Journey],
    free: Mapping[str, int],
) -> Step | None:
    """Let those go that hold what is short, the least recently used first."""
    moving = [one for one in ledger.residents.values() if one.state in ("leaving", "demoting")]
    lacking = {
        place: size - _leaving_bytes(moving, place)
        for place, size in short.items()
        if size > _leaving_bytes(moving, place)
    }
    if not lacking:
        return Wait(_residents(ledger, moving), short)
    spares = [one for one in ledger.by_use() if RAM in lacking and _has_spare(one)]
    if spares:
        return ReleaseSpare(spares[0])  # nobody has to go for it
    holding = [
        one
        for one in ledger.by_use()
        if one not in moving and any(one.held.get(place) for place in lacking)
    ]
    idle = [one for one in holding if ledger.can_leave(one, journey)]
    if idle and (journey.anyway or _enough(idle, (), lacking)):
        return _move(ledger, idle[0], journey, lacking, free)
    if journey.anyway:
        return None
    awaited = [one for one in holding if one not in idle and not one.pinned]
    if _enough((*idle, *awaited), loading, lacking):
        return Wait((*_residents(ledger, awaited), *_journeys(loading)), lacking)
    return Refuse((*_residents(ledger, holding), *_journeys(loading)), lacking)


def _move(
    ledger: Ledger,
    resident: Resident,
    journey: Journey,
    lacking: Mapping[str, int],
    free: Mapping[str, int],
) -> Close | Demote:
    """Let it go to host memory if that is enough room there, else out of memory."""
    demotes = ledger.options.demotes and resident.demotable and not resident.stays
    if not demotes or resident.state != "ready" or RAM in lacking:
        return Close(resident)
    claims = (journey, *ledger.under_way(journey))
    promised = sum(each.needs.get(RAM, 0) for each in claims) + sum(
        accelerator_bytes(one.held) for one in ledger.residents.values() if one.state == "demoting"
    )
    copied_bytes = max(accelerator_bytes(resident.held) - resident.spare_bytes, 0)
    room = copied_bytes + promised <= free.get(RAM, 0)
    return Demote(resident) if room else Close(resident)


def _comes_here(journey: Journey) -> bool:
    """Whether it is a load that takes a place in this machine's memory."""
    return journey.resident is None and not journey.elsewhere


def _has_spare(resident: Resident) -> bool:
    settled = resident.state == "ready" and not resident.in_use
    return settled and resident.spare_bytes > 0 and not resident.stays


def accelerator_bytes(held: Mapping[str, int]) -> int:
    """Add up what is on accelerators."""
    return sum(size for place, size in held.items() if place != RAM)


def _leaving_bytes(moving: Iterable[Resident], place: str) -> int:
    return sum(one.held.get(place, 0) for one in moving if one.state == "leaving" or place != RAM)


def _enough(
    residents: Iterable[Resident], journeys: Iterable[Journey], lacking: Mapping[str, int]
) -> bool:
    residents, journeys = tuple(residents), tuple(journeys)
    return all(
        sum(one.held.get(place, 0) for one in residents)
        + sum(each.needs.get(place, 0) for each in journeys)
        >= size
        for place, size in lacking.items()
    )


def _residents(ledger: Ledger, residents: Iterable[Resident]) -> tuple[Hold, ...]:
    wanted = [other.resident for other in ledger.journeys.values()]

    def why(one: Resident) -> HoldKind:
        if one.state not in ("ready", "demoted"):
            return "moving"
        if one.in_use:
            return "busy"
        if one.pinned:
            return "pinned"
        return "wanted" if one in wanted else "idle"

    return tuple(Hold(one.id, one.name, why(one)) for one in residents)


def _journeys(journeys: Iterable[Journey]) -> tuple[Hold, ...]:
    return tuple(
        Hold(
            each.resident.id if each.resident else "",
            each.name,
            "loading" if each.under_way else "earlier",
        )
        for each in journeys
    )
